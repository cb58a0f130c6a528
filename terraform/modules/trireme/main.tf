locals {
  facts    = yamldecode(file("${path.module}/../../facts/instances.yaml"))
  contract = yamldecode(file("${path.module}/../../../helm/trireme/node-contract.yaml"))

  # A pod selects the label of its role and tolerates the role's taints.
  tolerations               = { for role, taints in local.contract.taints : role => [for taint in taints : merge({ operator = "Equal" }, taint)] }
  interruptible_tolerations = [for taint in local.contract.interruptible_taints : merge({ operator = "Equal" }, taint)]
  placement = { for role in ["system", "gateway"] : role => {
    nodeSelector = { (local.contract.labels.role) = role }
    tolerations  = local.tolerations[role]
  } }

  gpus     = sum([for pool in values(var.pools) : pool.replicas * pool.tensor_parallel_size])
  gateways = coalesce(var.gateway_replicas, max(2, ceil(local.gpus / 2)))

  # A part of trireme.yaml; the chart adds to it.
  config = {
    name = var.name
    # API keys stand in the database; a trial without one serves whoever reaches it in the cluster.
    access  = { mode = var.database == null ? "none" : "keys" }
    gateway = { replicas = local.gateways, insecure_listen_without_auth = var.database == null }
    models = [{
      name   = var.model
      source = local.facts.models[var.model].source
      pools = [for name, pool in var.pools : merge(
        {
          name                 = name
          replicas             = pool.replicas
          device               = "gpu"
          gpu_type             = local.facts.gpus[pool.gpu].accelerator
          tensor_parallel_size = pool.tensor_parallel_size
          tiers                = pool.tiers
          lends_to             = pool.lends_to
        },
        local.facts.engine_settings[local.facts.gpus[pool.gpu].tensor_parallel[var.model][tostring(pool.tensor_parallel_size)]],
      )]
    }]
  }

  pools = { for name, pool in var.pools : name => {
    minReplicas   = pool.interruptible ? 0 : pool.replicas
    maxReplicas   = coalesce(pool.max_replicas, pool.replicas)
    gpus          = pool.tensor_parallel_size
    interruptible = pool.interruptible
    nodeSelector = {
      (local.contract.labels.role)     = "engine"
      (local.contract.labels.pool)     = name
      (local.contract.labels.gpu)      = local.facts.gpus[pool.gpu].accelerator
      (local.contract.labels.capacity) = pool.interruptible ? "interruptible" : "steady"
    }
    tolerations = concat(local.tolerations.engine, pool.interruptible ? local.interruptible_tolerations : [])
  } }

  redis = var.redis == null ? null : {
    host           = var.redis.host
    port           = var.redis.port
    tls            = var.redis.tls
    existingSecret = local.contract.secrets.redis.name
    secretKey      = local.contract.secrets.redis.key
    secretArn      = var.redis.secret_arn == null ? "" : var.redis.secret_arn
  }
  database = var.database == null ? null : {
    host           = var.database.host
    port           = var.database.port
    name           = var.database.name
    user           = var.database.user
    tls            = var.database.tls
    existingSecret = local.contract.secrets.database.name
    secretKey      = local.contract.secrets.database.key
    secretArn      = var.database.secret_arn == null ? "" : var.database.secret_arn
  }

  # Helm takes null for "delete the chart's default", so that what is not there is left out or empty.
  values = merge({
    infrastructure = {
      contractVersion = local.contract.version
      cloud           = var.cloud
      region          = var.region
    }
    imageRegistry = var.image_registry == null ? "" : var.image_registry
    config        = local.config
    head          = local.placement.system
    gateway       = local.placement.gateway
    pools         = local.pools
    weights = {
      uri              = var.weights_uri == null ? "" : var.weights_uri
      hostPath         = local.contract.local_disk.weights
      compileCachePath = local.contract.local_disk.compile_cache
    }
    serviceAccounts = { for role, name in local.contract.service_accounts : role => {
      name        = name
      annotations = lookup(var.service_account_annotations, role, {})
    } }
    monitoring = { remoteWriteUrl = var.remote_write_url == null ? "" : var.remote_write_url }
  }, { for store, found in { redis = local.redis, database = local.database } : store => found if found != null })
}
