variable "name" {
  type        = string
  description = "Name of the installation; begins the name of everything that is made."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "Write 3 to 24 lower-case letters, digits and hyphens, beginning with a letter, such as trireme-prod."
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

variable "prometheus" {
  type        = bool
  description = "Whether to make an Amazon Managed Prometheus workspace for the metrics; without it, use your own."
  default     = true
}

variable "grafana" {
  type        = bool
  description = "Whether to make an Amazon Managed Grafana workspace; needs IAM Identity Center in the account."
  default     = false
}

variable "log_days" {
  type        = number
  description = "Days that logs of pods are kept. They hold no prompts."
  default     = 365

  validation {
    condition     = contains([30, 60, 90, 180, 365, 400, 545, 731, 1096], var.log_days)
    error_message = "Write one of 30, 60, 90, 180, 365, 400, 545, 731 or 1096."
  }
}

variable "alert_emails" {
  type        = set(string)
  description = "Who is told of alarms and of the budget; each has to confirm once."
  default     = []

  validation {
    condition     = alltrue([for email in var.alert_emails : can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", email))])
    error_message = "Write addresses such as oncall@example.com."
  }
}

variable "monthly_budget_usd" {
  type        = number
  description = "What this installation may cost in a month, in US dollars; null sets no budget."
  default     = null

  validation {
    condition     = coalesce(var.monthly_budget_usd, 1) > 0
    error_message = "Write an amount above 0, or null for no budget."
  }
  validation {
    condition     = var.monthly_budget_usd == null || length(var.alert_emails) > 0
    error_message = "A budget that nobody hears of helps nobody: write addresses into alert_emails."
  }
}

variable "cost_tags" {
  type        = set(string)
  description = "Tags to make visible in Cost Explorer; only the paying account may, so none by default."
  default     = []

  validation {
    condition     = alltrue([for tag in var.cost_tags : can(regex("^[\\w .:/=+@-]{1,128}$", tag)) && !startswith(lower(tag), "aws:")])
    error_message = "Write names of tags, such as trireme:installation, none beginning with aws:."
  }
}

variable "stores" {
  type        = object({ postgres = string, valkey = optional(string) })
  description = "Stores to watch, from the data-stores module; null where there are none."
  default     = null

  validation {
    condition     = var.stores == null || try(length(var.stores.postgres) > 0, false)
    error_message = "Give the data-stores module's output ids, or write null."
  }
}
