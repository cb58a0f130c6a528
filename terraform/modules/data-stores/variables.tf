variable "name" {
  type        = string
  description = "Name of the installation; begins the name of everything that is made."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "Write 3 to 24 lower-case letters, digits and hyphens, beginning with a letter, such as trireme-prod."
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
  description = "Data subnets of two zones or more, from the network module."

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "Give subnets of two zones at least, so that the stores outlive one."
  }
}

variable "client_security_group_id" {
  type        = string
  description = "Group of those who may connect: the cluster's nodes."

  validation {
    condition     = length(var.client_security_group_id) > 0
    error_message = "Write the ID of a security group, such as sg-0123456789abcdef0: the cluster module's output security_group_id."
  }
}

variable "highly_available" {
  type        = bool
  description = "Whether each store has a standby in another zone."
  default     = true
}

variable "deletion_protection" {
  type        = bool
  description = "Whether the database refuses to be destroyed. To tear down, apply with false first."
  default     = true
}

variable "valkey" {
  type        = bool
  description = "Whether to make Valkey; false for those who bring a Redis of their own."
  default     = true
}

variable "valkey_node_type" {
  type        = string
  description = "Size of Valkey, which holds Ray's cluster state and the quotas' counters."
  default     = "cache.m7g.large"

  validation {
    condition     = can(regex("^cache\\.(t4g|m[67]g|r[67]g)\\.[a-z0-9]+$", var.valkey_node_type))
    error_message = "Write a node type of the t4g, m7g or r7g families, such as cache.m7g.large."
  }
}

variable "postgres_instance_class" {
  type        = string
  description = "Size of PostgreSQL, which holds tenants, keys and usage."
  default     = "db.m7g.large"

  validation {
    condition     = can(regex("^db\\.(t4g|m[67]g|r[67]g)\\.[a-z0-9]+$", var.postgres_instance_class))
    error_message = "Write a class of the t4g, m7g or r7g families, such as db.m7g.large."
  }
}

variable "postgres_storage_gb" {
  type        = number
  description = "Storage to begin with, in GB; it grows by itself to ten times that."
  default     = 50

  validation {
    condition     = var.postgres_storage_gb >= 20 && var.postgres_storage_gb <= 6000
    error_message = "Write 20 to 6000."
  }
}

variable "backup_days" {
  type        = number
  description = "Days of which the database can be restored to any moment."
  default     = 14

  validation {
    condition     = var.backup_days >= 1 && var.backup_days <= 35
    error_message = "Write 1 to 35; 0 would switch backups off."
  }
}
