locals {
  contract = yamldecode(file("${path.module}/../../../helm/trireme/node-contract.yaml"))

  labels = { (local.contract.labels.role) = var.role }
  taints = local.contract.taints[var.role]
  tags   = merge(var.tags, { Name = "${var.name}-${var.role}" })
}

resource "aws_launch_template" "this" {
  name                   = "${var.name}-${var.role}"
  description            = "${title(var.role)} nodes"
  update_default_version = true
  vpc_security_group_ids = [var.cluster.security_group_id]

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
  cluster_name    = var.cluster.name
  node_group_name = "${var.name}-${var.role}"
  node_role_arn   = var.cluster.node_role_arn
  subnet_ids      = var.subnet_ids
  version         = var.cluster.version
  ami_type        = "AL2023_x86_64_STANDARD"
  capacity_type   = "ON_DEMAND"
  instance_types  = var.instance_types
  labels          = local.labels
  tags            = local.tags

  launch_template {
    id      = aws_launch_template.this.id
    version = aws_launch_template.this.latest_version
  }

  scaling_config {
    min_size     = var.min_nodes
    desired_size = var.min_nodes
    max_size     = var.max_nodes
  }

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

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size] # the autoscaler's
  }
}
