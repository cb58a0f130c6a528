locals {
  facts    = yamldecode(file("${path.module}/../../facts/instances.yaml"))
  contract = yamldecode(file("${path.module}/../../../helm/trireme/node-contract.yaml"))

  instance_type     = coalesce(var.instance_type, local.facts.gpus[var.gpu].instance_types[0])
  facts_of_type     = local.facts.instance_types[local.instance_type]
  replicas_per_node = floor(local.facts_of_type.gpus / var.tensor_parallel_size)
  nodes             = ceil(var.replicas / local.replicas_per_node)
  max_nodes         = max(1, ceil(coalesce(var.max_replicas, var.replicas) / local.replicas_per_node))

  interruptible = var.capacity == "spot"
  labels = {
    (local.contract.labels.role)     = "engine"
    (local.contract.labels.pool)     = var.pool
    (local.contract.labels.gpu)      = local.facts.gpus[var.gpu].accelerator
    (local.contract.labels.capacity) = local.interruptible ? "interruptible" : "steady"
  }
  taints = concat(local.contract.taints.engine, local.interruptible ? local.contract.interruptible_taints : [])
  quota  = try(local.facts.quotas[local.facts_of_type.quota][var.capacity], null)

  node_groups = var.provisioner == "node-group" ? { this = "${var.name}-${var.pool}" } : {}
  tags        = merge(var.tags, { Name = "${var.name}-${var.pool}", "trireme:pool" = var.pool })

  # Merged by EKS with what joins the node: the disks become one volume that also holds images and emptyDirs.
  user_data = join("\n", [
    "MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=\"//\"", "",
    "--//", "Content-Type: application/node.eks.aws", "",
    yamlencode({
      apiVersion = "node.eks.aws/v1alpha1"
      kind       = "NodeConfig"
      spec       = { instance = { localStorage = { strategy = "RAID0" } } }
    }),
    "--//--", "",
  ])
}

resource "aws_security_group" "efa" {
  count = var.efa ? 1 : 0

  name        = "${var.name}-${var.pool}-efa"
  description = "EFA between the nodes of pool ${var.pool}"
  vpc_id      = var.vpc_id

  tags = { Name = "${var.name}-${var.pool}-efa" }
}

# EFA bypasses TCP, so that its group must allow everything from and to itself, and only that.
resource "aws_vpc_security_group_ingress_rule" "efa" {
  count = var.efa ? 1 : 0

  security_group_id            = aws_security_group.efa[0].id
  description                  = "EFA from nodes of the pool"
  referenced_security_group_id = aws_security_group.efa[0].id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "efa" {
  count = var.efa ? 1 : 0

  security_group_id            = aws_security_group.efa[0].id
  description                  = "EFA to nodes of the pool"
  referenced_security_group_id = aws_security_group.efa[0].id
  ip_protocol                  = "-1"
}

resource "aws_placement_group" "efa" {
  count = var.efa ? 1 : 0

  name     = "${var.name}-${var.pool}"
  strategy = "cluster"
}

resource "aws_launch_template" "this" {
  for_each = local.node_groups

  name                   = each.value
  description            = "Nodes of pool ${var.pool}"
  instance_type          = local.instance_type
  user_data              = base64encode(local.user_data)
  update_default_version = true
  # With EFA the interfaces below carry the groups.
  vpc_security_group_ids = var.efa ? null : [var.cluster.security_group_id]

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_type           = "gp3"
      volume_size           = var.root_volume_gb
      encrypted             = "true"
      delete_on_termination = "true"
    }
  }

  monitoring {
    enabled = true
  }

  dynamic "capacity_reservation_specification" {
    for_each = var.reservation_id == null ? [] : [var.reservation_id]
    content {
      capacity_reservation_target {
        capacity_reservation_id = capacity_reservation_specification.value
      }
    }
  }

  dynamic "instance_market_options" {
    for_each = var.capacity == "capacity-block" ? ["capacity-block"] : []
    content {
      market_type = instance_market_options.value
    }
  }

  dynamic "network_interfaces" {
    for_each = var.efa ? range(local.facts_of_type.efa_interfaces) : []
    content {
      network_card_index          = network_interfaces.value
      device_index                = network_interfaces.value == 0 ? 0 : 1
      interface_type              = network_interfaces.value == 0 ? "efa" : "efa-only"
      associate_public_ip_address = "false"
      delete_on_termination       = "true"
      security_groups             = [var.cluster.security_group_id, aws_security_group.efa[0].id]
    }
  }

  dynamic "placement" {
    for_each = aws_placement_group.efa
    content {
      group_name = placement.value.name
    }
  }

  dynamic "tag_specifications" {
    for_each = ["instance", "network-interface", "volume"]
    content {
      resource_type = tag_specifications.value
      tags          = local.tags
    }
  }

  tags = local.tags
}

resource "aws_eks_node_group" "this" {
  for_each = local.node_groups

  cluster_name    = var.cluster.name
  node_group_name = each.value
  node_role_arn   = var.cluster.node_role_arn
  subnet_ids      = var.subnet_ids
  version         = var.cluster.version
  ami_type        = "AL2023_x86_64_NVIDIA"
  capacity_type   = { on-demand = "ON_DEMAND", spot = "SPOT", reservation = "ON_DEMAND", capacity-block = "CAPACITY_BLOCK" }[var.capacity]
  labels          = local.labels
  tags            = local.tags

  launch_template {
    id      = aws_launch_template.this[each.key].id
    version = aws_launch_template.this[each.key].latest_version
  }

  scaling_config {
    min_size     = local.interruptible ? 0 : local.nodes
    desired_size = local.nodes
    max_size     = local.max_nodes
  }

  # One node at a time: each drains its replicas' streams to others first.
  update_config {
    max_unavailable = 1
  }

  dynamic "taint" {
    for_each = local.taints
    content {
      key    = taint.value.key
      value  = taint.value.value
      effect = { NoSchedule = "NO_SCHEDULE", PreferNoSchedule = "PREFER_NO_SCHEDULE", NoExecute = "NO_EXECUTE" }[taint.value.effect]
    }
  }

  timeouts {
    create = "60m" # capacity blocks begin when they begin
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size] # the autoscaler's
  }
}
