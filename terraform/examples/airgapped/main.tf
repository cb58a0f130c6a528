# No way to the internet: images from repositories of this account, weights from its bucket, AWS through endpoints alone.

data "aws_caller_identity" "this" {}

locals {
  tags = {
    "trireme:installation" = var.name
    "trireme:environment"  = "airgapped"
    "owner"                = var.owner
    "managed-by"           = "terraform"
  }
  service_cidr       = "172.20.0.0/16"
  registry           = "${data.aws_caller_identity.this.account_id}.dkr.ecr.${var.region}.amazonaws.com/${var.name}"
  kubernetes_version = "1.33"
  subnets            = module.network.private_subnet_ids
  cluster = {
    name              = module.cluster.name
    version           = local.kubernetes_version
    node_role_arn     = module.cluster.node_role_arn
    security_group_id = module.cluster.security_group_id
  }
}

module "network" {
  source = "../../modules/network"

  name               = var.name
  cidr               = var.cidr
  availability_zones = var.availability_zones
  other_cidrs        = concat([local.service_cidr], var.other_cidrs)
  nat                = "none"
  endpoints = [
    "aps-workspaces", "autoscaling", "ec2", "ecr.api", "ecr.dkr", "eks", "elasticloadbalancing", "kms", "logs", "secretsmanager", "sns", "sts",
  ]
}

module "cluster" {
  source = "../../modules/cluster"

  name               = var.name
  kubernetes_version = local.kubernetes_version
  vpc_id             = module.network.vpc_id
  subnet_ids         = values(local.subnets)
  service_cidr       = local.service_cidr
  api_client_cidrs   = var.api_client_cidrs
  admin_role_arns    = var.admin_role_arns
  image_repositories = var.image_repositories
  addons             = var.emulator ? {} : { aws-ebs-csi-driver = {}, coredns = {}, kube-proxy = {}, vpc-cni = {} }
}

module "system_nodes" {
  source = "../../modules/cpu-nodes"

  name           = var.name
  role           = "system"
  cluster        = local.cluster
  subnet_ids     = values(local.subnets)
  instance_types = ["m7i.2xlarge", "m7a.2xlarge", "m6i.2xlarge"]
  min_nodes      = 3
  tags           = local.tags
}

module "gateway_nodes" {
  source = "../../modules/cpu-nodes"

  name       = var.name
  role       = "gateway"
  cluster    = local.cluster
  subnet_ids = values(local.subnets)
  max_nodes  = var.max_gateway_nodes
  tags       = local.tags
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

module "data_stores" {
  source = "../../modules/data-stores"

  name                     = var.name
  vpc_id                   = module.network.vpc_id
  subnet_ids               = values(module.network.data_subnet_ids)
  client_security_group_id = module.cluster.security_group_id
  deletion_protection      = var.deletion_protection
  valkey                   = !var.emulator
}

module "observability" {
  source = "../../modules/observability"

  name               = var.name
  oidc_provider      = module.cluster.oidc_provider
  alert_emails       = var.alert_emails
  monthly_budget_usd = var.monthly_budget_usd
  stores             = module.data_stores.ids
}

module "trireme" {
  source = "../../modules/trireme"

  name             = var.name
  cloud            = "aws"
  region           = var.region
  model            = var.model
  pools            = { for name, pool in var.pools : name => merge(pool, { interruptible = pool.capacity == "spot" }) }
  image_registry   = local.registry
  weights_uri      = module.weights_store.uris[var.model]
  redis            = module.data_stores.redis
  database         = module.data_stores.database
  remote_write_url = module.observability.remote_write_url
  service_account_annotations = {
    engine  = { "eks.amazonaws.com/role-arn" = module.weights_store.reader_role_arn }
    metrics = { "eks.amazonaws.com/role-arn" = module.observability.metrics_role_arn }
  }
}
