variable "name" {
  type        = string
  description = "Name of the installation; begins the name of everything that is made."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "Write 3 to 24 lower-case letters, digits and hyphens, beginning with a letter, such as trireme-prod."
  }
}

variable "cloud" {
  type        = string
  description = "The cloud: aws, gcp, azure or none. Changes nothing but a label."
  default     = "none"

  validation {
    condition     = contains(["aws", "gcp", "azure", "none"], var.cloud)
    error_message = "Write aws, gcp, azure or none."
  }
}

variable "region" {
  type        = string
  description = "Region of the cluster."

  validation {
    condition     = length(var.region) > 0
    error_message = "Write the cloud's region, such as us-east-1."
  }
}

variable "model" {
  type        = string
  description = "The model that all pools serve."
  default     = "gpt-oss-120b"

  validation {
    condition     = contains(keys(local.facts.models), var.model)
    error_message = "Write one of ${join(", ", keys(local.facts.models))}."
  }
}

variable "pools" {
  type = map(object({
    gpu                  = string
    tensor_parallel_size = number
    replicas             = number
    max_replicas         = optional(number)
    interruptible        = optional(bool, false)
    tiers                = optional(list(string), ["low", "medium", "high"])
    lends_to             = optional(list(string), ["low", "medium", "high"])
  }))
  description = "Pools of replicas by name: GPU, GPUs per replica, how many, and which effort tiers come there first (tiers) or in need (lends_to)."

  validation {
    condition     = length(var.pools) > 0
    error_message = "Write at least one pool."
  }
  validation {
    condition     = alltrue([for name, pool in var.pools : can(regex("^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$", name))])
    error_message = "Write names of pools with at most 30 lower-case letters, digits and hyphens, such as main."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : contains(keys(local.facts.gpus), pool.gpu)])
    error_message = "Nothing is known of a pool's gpu: write one of ${join(", ", keys(local.facts.gpus))}."
  }
  validation {
    condition = alltrue([for pool in values(var.pools) :
    contains(keys(try(local.facts.gpus[pool.gpu].tensor_parallel[var.model], { "${pool.tensor_parallel_size}" = "" })), tostring(pool.tensor_parallel_size))])
    error_message = "A pool's tensor_parallel_size does not hold the model, or is none of 1, 2, 4, 8: write ${join("; ", [for gpu, facts in local.facts.gpus : "${join(", ", keys(try(facts.tensor_parallel[var.model], {})))} with ${gpu}"])}."
  }
  validation {
    condition = alltrue([for pool in values(var.pools) :
    pool.replicas >= 1 && pool.replicas <= 4096 && floor(pool.replicas) == pool.replicas && coalesce(pool.max_replicas, pool.replicas) >= pool.replicas])
    error_message = "Write replicas from 1 to 4096, and a max_replicas that is not less."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : alltrue([for tier in concat(pool.tiers, pool.lends_to) : contains(["low", "medium", "high"], tier)])])
    error_message = "Write tiers and lends_to with low, medium and high alone."
  }
  validation {
    condition     = length(setsubtract(["low", "medium", "high"], flatten([for pool in values(var.pools) : pool.tiers]))) == 0
    error_message = "A tier has no pool of its own: name each of low, medium and high in the tiers of some pool."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : !pool.interruptible || length(pool.tiers) == 0])
    error_message = "An interruptible pool may only lend: write tiers = [] for it."
  }
  validation {
    condition     = alltrue([for pool in values(var.pools) : length(pool.tiers) + length(pool.lends_to) > 0])
    error_message = "No tier may use one of the pools: write a tier into its tiers or lends_to."
  }
}

variable "gateway_replicas" {
  type        = number
  description = "Gateway processes; null takes one for two GPUs, as one renders some 7,000 tokens a second and an H200 writes some 3,000."
  default     = null

  validation {
    condition     = coalesce(var.gateway_replicas, 1) >= 1 && coalesce(var.gateway_replicas, 1) <= 1024
    error_message = "Write 1 to 1024."
  }
}

variable "weights_uri" {
  type        = string
  description = "Where the weights lie (s3://…, gs://…), or null to fetch them from Hugging Face."
  default     = null

  validation {
    condition     = var.weights_uri == null || can(regex("^(s3|gs|az)://[^/]+/.*/$", var.weights_uri))
    error_message = "Write a folder with a slash at its end, such as s3://bucket/models/gpt-oss-120b/."
  }
}

variable "image_registry" {
  type        = string
  description = "Registry that all images come from; null takes the chart's."
  default     = null

  validation {
    condition     = var.image_registry == null || !can(regex("^https?://|/$", var.image_registry))
    error_message = "Write host and path without https:// and without a slash at the end."
  }
}

variable "redis" {
  type        = object({ host = string, port = number, tls = bool, secret_arn = optional(string) })
  description = "Redis or Valkey for Ray's GCS and the quotas; null leaves it to the chart's own, which is for trials."
  default     = null

  validation {
    condition     = var.redis == null || try(length(var.redis.host) > 0 && !can(regex("[:/]", var.redis.host)) && var.redis.port >= 1 && var.redis.port <= 65535, false)
    error_message = "Write a host without scheme or port, such as valkey.internal, and a port from 1 to 65535."
  }
}

variable "database" {
  type        = object({ host = string, port = number, name = string, user = string, tls = bool, secret_arn = optional(string) })
  description = "PostgreSQL for tenants, keys and usage; null leaves it to SQLite, which is for trials."
  default     = null

  validation {
    condition     = var.database == null || try(var.database.tls, false)
    error_message = "Keys and usage travel to the database: write tls = true."
  }
}

variable "service_account_annotations" {
  type        = map(map(string))
  description = "What binds service accounts to cloud roles, by role of the service account (head, gateway, engine, metrics)."
  default     = {}

  validation {
    condition     = length(setsubtract(keys(var.service_account_annotations), keys(local.contract.service_accounts))) == 0
    error_message = "Write annotations for ${join(", ", keys(local.contract.service_accounts))} alone."
  }
}

variable "remote_write_url" {
  type        = string
  description = "Where Prometheus sends its samples; null for nowhere."
  default     = null

  validation {
    condition     = var.remote_write_url == null || can(regex("^https://", var.remote_write_url))
    error_message = "Write an address that begins with https://."
  }
}
