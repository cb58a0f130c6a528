# One GPU node, one NAT gateway, an API that your address alone reaches; the chart brings Redis and SQLite.

locals {
  tags = {
    "trireme:installation" = var.name
    "trireme:environment"  = "trial"
    "owner"                = var.owner
    "managed-by"           = "terraform"
  }
  service_cidr       = "172.20.0.0/16"
  kubernetes_version = "1.33"
  subnets            = module.network.private_subnet_ids
  cluster = {
    name              = module.cluster.name
    version           = local.kubernetes_version
    node_role_arn     = module.cluster.node_role_arn
    security_group_id = module.cluster.security_group_id
    instance_profile  = module.cluster.node_autoscaler.instance_profile
  }
}

module "network" {
  source = "../../modules/network"

  name                  = var.name
  cidr                  = var.cidr
  availability_zones    = var.availability_zones
  other_cidrs           = [local.service_cidr]
  nat                   = "single"
  public_load_balancers = true
}

module "cluster" {
  source = "../../modules/cluster"

  name               = var.name
  kubernetes_version = local.kubernetes_version
  vpc_id             = module.network.vpc_id
  subnet_ids         = values(local.subnets)
  service_cidr       = local.service_cidr
  public_api         = true
  public_api_cidrs   = var.my_addresses
  node_autoscaler    = "none"
  addons             = var.emulator ? {} : { aws-ebs-csi-driver = {}, coredns = {}, kube-proxy = {}, vpc-cni = {} }
}

module "system_nodes" {
  source = "../../modules/cpu-nodes"

  name           = var.name
  role           = "system"
  cluster        = local.cluster
  subnet_ids     = values(local.subnets)
  instance_types = ["m7i.xlarge", "m7a.xlarge", "m6i.xlarge"]
  min_nodes      = 1
  max_nodes      = 2
  tags           = local.tags
}

module "gateway_nodes" {
  source = "../../modules/cpu-nodes"

  name           = var.name
  role           = "gateway"
  cluster        = local.cluster
  subnet_ids     = values(local.subnets)
  instance_types = ["m7i.xlarge", "m7a.xlarge", "m6i.xlarge"]
  min_nodes      = 1
  max_nodes      = 2
  tags           = local.tags
}

module "gpu_nodes" {
  source   = "../../modules/gpu-nodes"
  for_each = var.pools

  name                 = var.name
  pool                 = each.key
  model                = var.model
  gpu                  = each.value.gpu
  instance_type        = each.value.instance_type
  tensor_parallel_size = each.value.tensor_parallel_size
  replicas             = each.value.replicas
  max_replicas         = each.value.max_replicas
  capacity             = each.value.capacity
  reservation_id       = each.value.reservation_id
  owns_tiers           = length(each.value.tiers) > 0
  efa                  = each.value.efa
  cluster              = local.cluster
  vpc_id               = module.network.vpc_id
  subnet_ids           = each.value.zone == null ? values(local.subnets) : [local.subnets[each.value.zone]]
  tags                 = local.tags
}

module "weights_store" {
  source = "../../modules/weights-store"

  name          = var.name
  models        = [var.model]
  verify        = var.verify_weights
  vpc_id        = module.network.vpc_id
  oidc_provider = module.cluster.oidc_provider
}

module "observability" {
  source = "../../modules/observability"

  name               = var.name
  oidc_provider      = module.cluster.oidc_provider
  prometheus         = false
  alert_emails       = var.alert_emails
  monthly_budget_usd = var.monthly_budget_usd
}

module "trireme" {
  source = "../../modules/trireme"

  name        = var.name
  cloud       = "aws"
  region      = var.region
  model       = var.model
  pools       = { for name, pool in var.pools : name => merge(pool, { interruptible = pool.capacity == "spot" }) }
  weights_uri = module.weights_store.uris[var.model]
  service_account_annotations = {
    engine  = { "eks.amazonaws.com/role-arn" = module.weights_store.reader_role_arn }
    metrics = { "eks.amazonaws.com/role-arn" = module.observability.metrics_role_arn }
  }
}
