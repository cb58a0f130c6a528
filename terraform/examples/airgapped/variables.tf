variable "name" {
  type        = string
  description = "Name of the installation; begins the name of everything that is made."
  default     = "trireme-airgapped"
}

variable "region" {
  type        = string
  description = "AWS region."

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "Write a region, such as us-east-1."
  }
}

variable "availability_zones" {
  type        = list(string)
  description = "Two or three zones of the region."

  validation {
    condition     = alltrue([for zone in var.availability_zones : startswith(zone, var.region)])
    error_message = "A zone lies outside of region: write zones such as ${var.region}a."
  }
}

variable "cidr" {
  type        = string
  description = "Addresses of the VPC."
  default     = "10.40.0.0/16"
}

variable "owner" {
  type        = string
  description = "Who answers for it; a tag."
  default     = "platform"

  validation {
    condition     = can(regex("^[A-Za-z0-9 _.:/=+@-]{2,256}$", var.owner))
    error_message = "Write who answers for it, in letters and digits, such as platform or team@example.com."
  }
}

variable "model" {
  type        = string
  description = "The model to serve: gpt-oss-120b or gpt-oss-20b."
  default     = "gpt-oss-120b"
}

variable "pools" {
  type = map(object({
    gpu                  = string
    tensor_parallel_size = number
    replicas             = number
    max_replicas         = optional(number)
    instance_type        = optional(string)
    capacity             = optional(string, "on-demand")
    reservation_id       = optional(string)
    zone                 = optional(string)
    efa                  = optional(bool, false)
    tiers                = optional(list(string), ["low", "medium", "high"])
    lends_to             = optional(list(string), ["low", "medium", "high"])
  }))
  description = "Pools of replicas by name. `trireme cloud plan` writes this for you."

  validation {
    condition     = alltrue([for pool in values(var.pools) : pool.zone == null || contains(var.availability_zones, coalesce(pool.zone, "none"))])
    error_message = "A pool's zone is none of availability_zones: write one of those, or add it there."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : !contains(["reservation", "capacity-block"], pool.capacity) || pool.zone != null])
    error_message = "A reservation or capacity block lives in one zone: write zone, as its purchase says."
  }
}

variable "other_cidrs" {
  type        = list(string)
  description = "Other networks in reach, none of which may overlap with cidr."
  default     = []
}

variable "api_client_cidrs" {
  type        = list(string)
  description = "Private networks (VPN, office) that reach the Kubernetes API, which is not public."
}

variable "admin_role_arns" {
  type        = set(string)
  description = "IAM roles that administer the cluster."
  default     = []
}

variable "image_repositories" {
  type        = set(string)
  description = "Images that the chart and what it stands on pull, as repositories of this account."
  default = [
    "trireme/engine", "trireme/gateway", "kuberay/operator", "nvidia/k8s-device-plugin", "autoscaling/cluster-autoscaler",
  ]
}

variable "max_gateway_nodes" {
  type        = number
  description = "Gateway nodes at most, of 16 vCPUs each; a gateway keeps one busy."
  default     = 6
}

variable "alert_emails" {
  type        = set(string)
  description = "Who is told of alarms and of the budget."
}

variable "monthly_budget_usd" {
  type        = number
  description = "What it may cost in a month, in US dollars."
}

variable "verify_weights" {
  type        = bool
  description = "Whether to compare the bucket with its manifests; from the second apply on."
  default     = false
}

variable "deletion_protection" {
  type        = bool
  description = "Whether the database refuses to be destroyed."
  default     = true
}

variable "emulator" {
  type        = bool
  description = "True only against an emulator of AWS (moto) in tests: leaves out what it cannot make, the EKS add-ons and Valkey."
  default     = false
}
