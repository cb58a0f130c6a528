variable "name" {
  type        = string
  description = "Name of the installation; begins the name of everything that is made."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "Write 3 to 24 lower-case letters, digits and hyphens, beginning with a letter, such as trireme-prod."
  }
}

variable "pool" {
  type        = string
  description = "Name of the pool, as in trireme.yaml."

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$", var.pool))
    error_message = "Write at most 30 lower-case letters, digits and hyphens, such as main."
  }
}

variable "model" {
  type        = string
  description = "The model that the pool serves."
  default     = "gpt-oss-120b"

  validation {
    condition     = contains(keys(local.facts.models), var.model)
    error_message = "Write one of ${join(", ", keys(local.facts.models))}."
  }
}

variable "gpu" {
  type        = string
  description = "Kind of GPU: h100, h200, b200 or l40s."

  validation {
    condition     = contains(keys(local.facts.gpus), var.gpu)
    error_message = "Nothing is known of this GPU (instance types, memory, quota): write one of ${join(", ", keys(local.facts.gpus))}."
  }
}

variable "instance_type" {
  type        = string
  description = "Instance type; null takes the first that facts/instances.yaml names for the GPU."
  default     = null

  validation {
    condition     = var.instance_type == null || contains(keys(local.facts.instance_types), coalesce(var.instance_type, "none"))
    error_message = "The type has no quota family in facts/instances.yaml: write one of ${join(", ", keys(local.facts.instance_types))}."
  }
  validation {
    condition     = var.instance_type == null || try(local.facts.instance_types[var.instance_type].gpu == var.gpu, true)
    error_message = "The type has other GPUs than gpu says: write one of ${join(", ", try(local.facts.gpus[var.gpu].instance_types, []))}."
  }
}

variable "tensor_parallel_size" {
  type        = number
  description = "GPUs of one replica."

  validation {
    condition     = contains([1, 2, 4, 8], var.tensor_parallel_size)
    error_message = "Write 1, 2, 4 or 8: it must divide gpt-oss's 8 KV heads."
  }
  validation {
    # A GPU or model that is not known is refused by its own variable.
    condition     = contains(keys(try(local.facts.gpus[var.gpu].tensor_parallel[var.model], { "${var.tensor_parallel_size}" = "" })), tostring(var.tensor_parallel_size))
    error_message = "${var.model} does not fit so few of these GPUs: write one of ${join(", ", try(keys(local.facts.gpus[var.gpu].tensor_parallel[var.model]), []))}."
  }
  validation {
    condition     = try(var.tensor_parallel_size <= local.facts.instance_types[coalesce(var.instance_type, local.facts.gpus[var.gpu].instance_types[0])].gpus, true)
    error_message = "A replica lives on one node, and the node has fewer GPUs: write at most ${try(local.facts.instance_types[coalesce(var.instance_type, local.facts.gpus[var.gpu].instance_types[0])].gpus, 8)}, or take a larger instance_type."
  }
}

variable "replicas" {
  type        = number
  description = "Replicas to start with."

  validation {
    condition     = var.replicas >= 0 && var.replicas <= 4096 && floor(var.replicas) == var.replicas
    error_message = "Write a whole number from 0 to 4096."
  }
}

variable "max_replicas" {
  type        = number
  description = "Replicas that autoscaling may reach; null stays at replicas."
  default     = null

  validation {
    condition     = coalesce(var.max_replicas, var.replicas) >= var.replicas && coalesce(var.max_replicas, 1) >= 1
    error_message = "Write a number that is at least replicas, and at least 1."
  }
}

variable "capacity" {
  type        = string
  description = "How the nodes are bought: on-demand, spot (may be taken away within two minutes), reservation (an on-demand capacity reservation) or capacity-block."
  default     = "on-demand"

  validation {
    condition     = contains(["on-demand", "spot", "reservation", "capacity-block"], var.capacity)
    error_message = "Write on-demand, spot, reservation or capacity-block."
  }
  validation {
    condition     = contains(try(local.facts.instance_types[coalesce(var.instance_type, local.facts.gpus[var.gpu].instance_types[0])].capacity, [var.capacity]), var.capacity)
    error_message = "EC2 does not sell this instance type so, or its quota is not known: write one of ${join(", ", try(local.facts.instance_types[coalesce(var.instance_type, local.facts.gpus[var.gpu].instance_types[0])].capacity, []))}."
  }
}

variable "owns_tiers" {
  type        = bool
  description = "Whether a tier's requests come to this pool first; false for a pool that only lends."
  default     = true

  validation {
    condition     = !(var.owns_tiers && var.capacity == "spot")
    error_message = "Spot nodes may vanish, so only a pool that lends may stand on them: write tiers = [] for it, or another capacity."
  }
}

variable "reservation_id" {
  type        = string
  description = "The capacity reservation or block."
  default     = null

  validation {
    condition     = contains(["reservation", "capacity-block"], var.capacity) == (var.reservation_id != null)
    error_message = "Write the ID of the reservation or block (cr-…) where capacity is reservation or capacity-block, and nowhere else."
  }
  validation {
    condition     = var.reservation_id == null || can(regex("^cr-[0-9a-f]{8,17}$", var.reservation_id))
    error_message = "Write an ID such as cr-0123456789abcdef0."
  }
}

variable "efa" {
  type        = bool
  description = "Whether nodes get EFA interfaces. Replicas live on one node and need none; for your own jobs beside them."
  default     = false

  validation {
    condition     = !var.efa || try(local.facts.instance_types[coalesce(var.instance_type, local.facts.gpus[var.gpu].instance_types[0])].efa_interfaces, 1) > 0
    error_message = "This instance type has no EFA: write false."
  }
}

variable "provisioner" {
  type        = string
  description = "Who makes the nodes: node-group (EKS), or karpenter (the manifests are an output)."
  default     = "node-group"

  validation {
    condition     = contains(["node-group", "karpenter"], var.provisioner)
    error_message = "Write node-group or karpenter."
  }
}

variable "cluster" {
  type = object({
    name              = string
    version           = string
    node_role_arn     = string
    security_group_id = string
    instance_profile  = optional(string)
  })
  description = "The cluster, from the cluster module."

  validation {
    condition     = var.provisioner != "karpenter" || var.cluster.instance_profile != null
    error_message = "Karpenter needs the nodes' instance profile: set node_autoscaler to karpenter in the cluster module."
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
  description = "Subnets for the nodes; for a reservation or block that of its zone alone."

  validation {
    condition     = length(var.subnet_ids) >= 1
    error_message = "Give at least one subnet."
  }
  validation {
    condition     = var.reservation_id == null || length(var.subnet_ids) == 1
    error_message = "A reservation lives in one zone: give that zone's subnet alone (zone of the pool)."
  }
}

variable "root_volume_gb" {
  type        = number
  description = "Root volume, in GB. Images and caches lie on the local NVMe."
  default     = 200

  validation {
    condition     = var.root_volume_gb >= 100 && var.root_volume_gb <= 2000
    error_message = "Write 100 to 2000."
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
