variable "name" {
  type        = string
  description = "Name of the installation; begins the name of everything that is made."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "Write 3 to 24 lower-case letters, digits and hyphens, beginning with a letter, such as trireme-prod."
  }
}

variable "role" {
  type        = string
  description = "What the nodes are for: gateway (renders prompts, carries streams) or system (Ray's head, operators, DNS)."

  validation {
    condition     = contains(["gateway", "system"], var.role)
    error_message = "Write gateway or system."
  }
}

variable "instance_types" {
  type        = list(string)
  description = "Instance types, the preferred first. x86 without local disks; all of one size, or the autoscaler misjudges them."

  default = ["m7i.4xlarge", "m7a.4xlarge", "m6i.4xlarge"]

  validation {
    condition     = length(var.instance_types) >= 1 && alltrue([for type in var.instance_types : can(regex("^[cmr][5-8](i|a|n|in)?\\.", type))])
    error_message = "Write x86 types of the c, m or r families, such as m7i.4xlarge (no Graviton: the images are x86)."
  }
  validation {
    condition     = length(distinct([for type in var.instance_types : split(".", type)[1]])) == 1
    error_message = "Write types of one size, such as m7i.4xlarge and m6i.4xlarge."
  }
}

variable "min_nodes" {
  type        = number
  description = "Nodes at least."
  default     = 2

  validation {
    condition     = var.min_nodes >= 1 && floor(var.min_nodes) == var.min_nodes
    error_message = "Write 1 or more; 2 outlive the loss of a node."
  }
}

variable "max_nodes" {
  type        = number
  description = "Nodes at most."
  default     = 6

  validation {
    condition     = var.max_nodes >= var.min_nodes && var.max_nodes <= 200
    error_message = "Write a number from min_nodes to 200."
  }
}

variable "cluster" {
  type = object({
    name              = string
    version           = string
    node_role_arn     = string
    security_group_id = string
  })
  description = "The cluster, from the cluster module."

  validation {
    condition     = startswith(var.cluster.node_role_arn, "arn:") && length(var.cluster.name) > 0 && length(var.cluster.security_group_id) > 0
    error_message = "Give the cluster module's outputs name, node_role_arn (an ARN) and security_group_id."
  }
}

variable "subnet_ids" {
  type        = list(string)
  description = "Private subnets, of all zones."

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "Give subnets of two zones at least, so that the nodes outlive one."
  }
}

variable "root_volume_gb" {
  type        = number
  description = "Root volume, in GB; images and logs lie there."
  default     = 100

  validation {
    condition     = var.root_volume_gb >= 50 && var.root_volume_gb <= 2000
    error_message = "Write 50 to 2000."
  }
}

variable "tags" {
  type        = map(string)
  description = "Tags of the machines and their volumes; the provider's default tags do not reach those."
  default     = {}

  validation {
    condition     = alltrue([for name, value in var.tags : !startswith(lower(name), "aws:") && length(name) <= 128 && length(value) <= 256])
    error_message = "Write tags of at most 128 characters with values of at most 256, none beginning with aws:, such as owner = \"platform\"."
  }
}
