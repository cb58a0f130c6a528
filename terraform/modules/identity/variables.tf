variable "name" {
  type        = string
  description = "Name of the role."

  validation {
    condition     = can(regex("^[A-Za-z0-9+=,.@_-]{1,64}$", var.name))
    error_message = "Write at most 64 letters, digits and hyphens."
  }
}

variable "oidc_provider" {
  type        = object({ arn = string, issuer = string })
  description = "The cluster's identity provider, as the cluster module gives it."

  validation {
    condition     = !startswith(var.oidc_provider.issuer, "https://")
    error_message = "Write the issuer without https://, as the cluster module's oidc_provider output has it."
  }
}

variable "namespace" {
  type        = string
  description = "Namespace of the service account."

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "Write one namespace without wildcards, such as trireme."
  }
}

variable "service_account" {
  type        = string
  description = "The one service account that may take the role."

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", var.service_account))
    error_message = "Write one name without wildcards, such as trireme-engine."
  }
}

variable "policy" {
  type        = string
  description = "What the role may do, as JSON; null for managed policies alone."
  default     = null

  validation {
    condition     = var.policy == null || can(jsondecode(var.policy).Statement)
    error_message = "Give a policy in JSON: write jsonencode({ Version = \"2012-10-17\", Statement = [...] })."
  }
  validation {
    condition     = var.policy == null || !can(regex("\"Action\":(\\[[^]]*)?\"[^\"]*\\*", var.policy))
    error_message = "Name each action: write s3:GetObject, never s3:* or *."
  }
}

variable "managed_policy_arns" {
  type        = set(string)
  description = "AWS's own policies to attach."
  default     = []

  validation {
    condition     = alltrue([for arn in var.managed_policy_arns : can(regex("^arn:aws[a-z-]*:iam::(aws|[0-9]{12}):policy/.+$", arn)) && !endswith(arn, "/AdministratorAccess")])
    error_message = "Write ARNs of policies, such as arn:aws:iam::aws:policy/AmazonEKS_CNI_Policy, never AdministratorAccess."
  }
}
