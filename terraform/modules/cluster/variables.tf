variable "name" {
  type        = string
  description = "Name of the installation; begins the name of everything that is made."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "Write 3 to 24 lower-case letters, digits and hyphens, beginning with a letter, such as trireme-prod."
  }
}

variable "kubernetes_version" {
  type        = string
  description = "Version of Kubernetes."
  default     = "1.33"

  validation {
    condition     = can(regex("^1\\.(3[1-9]|4[0-9])$", var.kubernetes_version))
    error_message = "Write a version from 1.31 on, such as 1.33: KubeRay 1.7 and its schemas are tested from there."
  }
}

variable "vpc_id" {
  type        = string
  description = "The VPC, from the network module."

  validation {
    condition     = can(regex("^vpc-[0-9a-z]+$", var.vpc_id))
    error_message = "Write the ID of a VPC, such as vpc-0123456789abcdef0: the network module's output vpc_id."
  }
}

variable "subnet_ids" {
  type        = list(string)
  description = "Private subnets of two zones or more, from the network module."

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "Give subnets of two zones at least: EKS puts its control plane into two."
  }
}

variable "service_cidr" {
  type        = string
  description = "Addresses of Kubernetes services; must overlap with no network in reach."
  default     = "172.20.0.0/16"

  validation {
    condition     = can(cidrhost(var.service_cidr, 0)) && can(regex("/(1[2-9]|2[0-4])$", var.service_cidr))
    error_message = "Write an IPv4 range of /12 to /24, such as 172.20.0.0/16."
  }
}

variable "api_client_cidrs" {
  type        = list(string)
  description = "Private ranges (VPN, office, bastion) that reach the API inside the VPC, besides the nodes."
  default     = []

  validation {
    condition     = alltrue([for cidr in var.api_client_cidrs : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "Write the ranges of your own networks, such as 10.0.0.0/16, never 0.0.0.0/0."
  }
}

variable "public_api" {
  type        = bool
  description = "Whether the API is also reachable from the internet, by public_api_cidrs alone."
  default     = false
}

variable "public_api_cidrs" {
  type        = list(string)
  description = "Public addresses that may reach the API."
  default     = []

  validation {
    condition     = !var.public_api || length(var.public_api_cidrs) > 0
    error_message = "A public API needs its allow-list: write your own addresses into public_api_cidrs, such as [\"203.0.113.7/32\"], or set public_api to false."
  }
  validation {
    condition     = alltrue([for cidr in var.public_api_cidrs : can(cidrhost(cidr, 0)) && can(regex("/(1[6-9]|2[0-9]|3[0-2])$", cidr))])
    error_message = "Write ranges of /16 or smaller, such as 203.0.113.0/24, never 0.0.0.0/0."
  }
}

variable "admin_role_arns" {
  type        = set(string)
  description = "IAM roles that administer the cluster. With none, whoever creates it does."
  default     = []

  validation {
    condition     = alltrue([for arn in var.admin_role_arns : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$", arn))])
    error_message = "Write ARNs of roles, such as arn:aws:iam::123456789012:role/platform (not users: their keys do not expire)."
  }
}

variable "addons" {
  type        = map(object({ version = optional(string) }))
  description = "EKS add-ons and their versions; null takes EKS's default for the Kubernetes version."
  default = {
    aws-ebs-csi-driver = {}
    coredns            = {}
    kube-proxy         = {}
    vpc-cni            = {}
  }

  validation {
    condition     = alltrue([for name in keys(var.addons) : can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", name))])
    error_message = "Write names as EKS lists them, such as vpc-cni = {}."
  }
  validation {
    condition     = alltrue([for addon in values(var.addons) : addon.version == null || can(regex("^v[0-9]+\\.[0-9]+\\.[0-9]+-eksbuild\\.[0-9]+$", addon.version))])
    error_message = "Write a version as EKS names it, such as v1.19.2-eksbuild.1, or none for the default."
  }
}

variable "node_autoscaler" {
  type        = string
  description = "What adds nodes when pods wait: cluster-autoscaler (managed node groups), karpenter (its own node pools) or none."
  default     = "cluster-autoscaler"

  validation {
    condition     = contains(["cluster-autoscaler", "karpenter", "none"], var.node_autoscaler)
    error_message = "Write cluster-autoscaler, karpenter or none."
  }
}

variable "image_repositories" {
  type        = set(string)
  description = "Container repositories to make in this account, for clusters that pull from nowhere else."
  default     = []

  validation {
    condition     = alltrue([for name in var.image_repositories : can(regex("^[a-z0-9]+([./_-][a-z0-9]+)*$", name))])
    error_message = "Write repository names without registry or tag, such as trireme/gateway."
  }
}

variable "log_days" {
  type        = number
  description = "Days that the control plane's logs are kept."
  default     = 365

  validation {
    condition     = contains([30, 60, 90, 180, 365, 400, 545, 731, 1096], var.log_days)
    error_message = "Write one of 30, 60, 90, 180, 365, 400, 545, 731 or 1096."
  }
}
