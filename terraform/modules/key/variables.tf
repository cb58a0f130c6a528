variable "alias" {
  type        = string
  description = "Alias of the key, without `alias/`."

  validation {
    condition     = can(regex("^[a-zA-Z0-9/_-]{1,200}$", var.alias)) && !startswith(var.alias, "aws/")
    error_message = "Write letters, digits, hyphens, underscores and slashes, not beginning with aws/, such as trireme/weights."
  }
}

variable "description" {
  type        = string
  description = "What the key protects."

  validation {
    condition     = length(var.description) >= 8 && length(var.description) <= 256
    error_message = "Write what the key encrypts, in 8 to 256 characters."
  }
}

variable "log_groups" {
  type        = bool
  description = "Whether CloudWatch Logs may encrypt this account's log groups with it."
  default     = false
}

variable "services" {
  type        = set(string)
  description = "Further services that may use it for this account, such as cloudwatch.amazonaws.com."
  default     = []

  validation {
    condition     = alltrue([for service in var.services : can(regex("^[a-z0-9-]+\\.amazonaws\\.com$", service))])
    error_message = "Write full service names, such as sns.amazonaws.com."
  }
}
