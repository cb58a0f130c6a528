variable "name" {
  type        = string
  description = "Name of the installation; begins the name of everything that is made."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "Write 3 to 24 lower-case letters, digits and hyphens, beginning with a letter, such as trireme-prod."
  }
}

variable "models" {
  type        = set(string)
  description = "Models whose weights the bucket holds, each under models/<name>/."
  default     = ["gpt-oss-120b"]

  validation {
    condition     = length(var.models) > 0 && alltrue([for model in var.models : can(regex("^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", model))])
    error_message = "Write names of models, such as gpt-oss-120b."
  }
}

variable "verify" {
  type        = bool
  description = "Whether to compare the bucket with each model's manifest.json, and to refuse if a file is missing or has another size. Off for the first apply, when the bucket is empty."
  default     = false
}

variable "vpc_id" {
  type        = string
  description = "The VPC from which alone weights may be read; null leaves it to IAM."
  default     = null

  validation {
    condition     = var.vpc_id == null || can(regex("^vpc-[0-9a-z]+$", var.vpc_id))
    error_message = "Write the ID of a VPC, such as vpc-0123456789abcdef0, or null."
  }
}

variable "oidc_provider" {
  type        = object({ arn = string, issuer = string })
  description = "The cluster's identity provider, from the cluster module."

  validation {
    condition     = startswith(var.oidc_provider.arn, "arn:") && length(var.oidc_provider.issuer) > 0 && !startswith(var.oidc_provider.issuer, "https://")
    error_message = "Give the cluster module's output oidc_provider: write an ARN, and the issuer without https://."
  }
}

variable "noncurrent_days" {
  type        = number
  description = "Days that overwritten or deleted files can be restored."
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 7 && var.noncurrent_days <= 365
    error_message = "Write 7 to 365."
  }
}
