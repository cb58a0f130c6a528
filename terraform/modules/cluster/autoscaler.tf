data "aws_caller_identity" "this" {}
data "aws_region" "this" {}

locals {
  account = data.aws_caller_identity.this.account_id
  region  = data.aws_region.this.name
  ec2     = "${local.arn}:ec2:${local.region}"

  # EC2 and Auto Scaling offer no narrower resource than "*" for reading.
  autoscaler_reads = [
    "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances", "autoscaling:DescribeLaunchConfigurations",
    "autoscaling:DescribeScalingActivities", "ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplateVersions",
    "ec2:GetInstanceTypesFromInstanceRequirements",
  ]
  karpenter_reads = [
    "ec2:DescribeAvailabilityZones", "ec2:DescribeCapacityReservations", "ec2:DescribeImages", "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceTypes", "ec2:DescribeInstances", "ec2:DescribeLaunchTemplates", "ec2:DescribeSecurityGroups",
    "ec2:DescribeSpotPriceHistory", "ec2:DescribeSubnets", "pricing:GetProducts",
  ]
  owned = { StringEquals = { "aws:ResourceTag/kubernetes.io/cluster/${var.name}" = "owned" } }
  owns  = { StringEquals = { "aws:RequestTag/kubernetes.io/cluster/${var.name}" = "owned" } }

  autoscaler_policies = {
    none = null
    cluster-autoscaler = {
      Version = "2012-10-17"
      Statement = [
        { Sid = "Read", Effect = "Allow", Action = local.autoscaler_reads, Resource = "*" },
        {
          Sid      = "ReadNodeGroups"
          Effect   = "Allow"
          Action   = ["eks:DescribeNodegroup"]
          Resource = "${local.arn}:eks:${local.region}:${local.account}:nodegroup/${var.name}/*"
        },
        {
          Sid       = "Scale"
          Effect    = "Allow"
          Action    = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
          Resource  = "${local.arn}:autoscaling:${local.region}:${local.account}:autoScalingGroup:*:autoScalingGroupName/eks-*"
          Condition = { StringEquals = { "aws:ResourceTag/eks:cluster-name" = var.name } }
        },
      ]
    }
    karpenter = {
      Version = "2012-10-17"
      Statement = [
        { Sid = "Read", Effect = "Allow", Action = local.karpenter_reads, Resource = "*" },
        {
          Sid      = "ReadCluster"
          Effect   = "Allow"
          Action   = ["eks:DescribeCluster"]
          Resource = "${local.arn}:eks:${local.region}:${local.account}:cluster/${var.name}"
        },
        {
          Sid      = "ReadImageNames"
          Effect   = "Allow"
          Action   = ["ssm:GetParameter"]
          Resource = "${local.arn}:ssm:${local.region}::parameter/aws/service/*"
        },
        {
          Sid    = "LaunchFrom"
          Effect = "Allow"
          Action = ["ec2:CreateFleet", "ec2:RunInstances"]
          Resource = [
            "${local.ec2}::image/*", "${local.ec2}::snapshot/*", "${local.ec2}:${local.account}:security-group/*",
            "${local.ec2}:${local.account}:subnet/*", "${local.ec2}:${local.account}:capacity-reservation/*",
          ]
        },
        {
          Sid       = "LaunchFromOwnTemplates"
          Effect    = "Allow"
          Action    = ["ec2:CreateFleet", "ec2:RunInstances"]
          Resource  = ["${local.ec2}:${local.account}:launch-template/*"]
          Condition = local.owned
        },
        {
          Sid    = "LaunchAndTag"
          Effect = "Allow"
          Action = ["ec2:CreateFleet", "ec2:CreateLaunchTemplate", "ec2:CreateTags", "ec2:RunInstances"]
          Resource = [for kind in ["fleet", "instance", "launch-template", "network-interface", "spot-instances-request", "volume"] :
          "${local.ec2}:${local.account}:${kind}/*"]
          Condition = local.owns
        },
        {
          Sid       = "EndOwn"
          Effect    = "Allow"
          Action    = ["ec2:CreateTags", "ec2:DeleteLaunchTemplate", "ec2:TerminateInstances"]
          Resource  = ["${local.ec2}:${local.account}:instance/*", "${local.ec2}:${local.account}:launch-template/*"]
          Condition = local.owned
        },
        {
          Sid       = "GiveNodesTheirRole"
          Effect    = "Allow"
          Action    = ["iam:PassRole"]
          Resource  = aws_iam_role.node.arn
          Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } }
        },
        {
          Sid      = "ReadInstanceProfile"
          Effect   = "Allow"
          Action   = ["iam:GetInstanceProfile"]
          Resource = "${local.arn}:iam::${local.account}:instance-profile/${var.name}-node"
        },
        {
          Sid      = "Notices"
          Effect   = "Allow"
          Action   = ["sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"]
          Resource = "${local.arn}:sqs:${local.region}:${local.account}:${var.name}-interruptions"
        },
      ]
    }
  }
  karpenter = var.node_autoscaler == "karpenter" ? { this = var.name } : {}
  notices = {
    spot      = { source = "aws.ec2", type = "EC2 Spot Instance Interruption Warning" }
    rebalance = { source = "aws.ec2", type = "EC2 Instance Rebalance Recommendation" }
    state     = { source = "aws.ec2", type = "EC2 Instance State-change Notification" }
    health    = { source = "aws.health", type = "AWS Health Event" }
  }
}

module "autoscaler_role" {
  source = "../identity"
  count  = var.node_autoscaler == "none" ? 0 : 1

  name            = "${var.name}-${var.node_autoscaler}"
  oidc_provider   = local.oidc_provider
  namespace       = "kube-system"
  service_account = var.node_autoscaler
  policy          = jsonencode(local.autoscaler_policies[var.node_autoscaler])
}

# Karpenter makes instances itself, so it needs what a node group would bring.
resource "aws_iam_instance_profile" "node" {
  for_each = local.karpenter

  name = "${var.name}-node"
  role = aws_iam_role.node.name
}

resource "aws_eks_access_entry" "node" {
  for_each = local.karpenter

  cluster_name  = aws_eks_cluster.this.name
  principal_arn = aws_iam_role.node.arn
  type          = "EC2_LINUX"
}

resource "aws_sqs_queue" "interruptions" {
  for_each = local.karpenter

  name                      = "${var.name}-interruptions"
  message_retention_seconds = 300
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue_policy" "interruptions" {
  for_each = local.karpenter

  queue_url = aws_sqs_queue.interruptions["this"].url
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sqs:SendMessage"
      Principal = { Service = "events.amazonaws.com" }
      Resource  = aws_sqs_queue.interruptions["this"].arn
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_cloudwatch_event_rule" "interruptions" {
  for_each = var.node_autoscaler == "karpenter" ? local.notices : {}

  name          = "${var.name}-${each.key}"
  description   = "${each.value.type}, for Karpenter"
  event_pattern = jsonencode({ source = [each.value.source], detail-type = [each.value.type] })
}

resource "aws_cloudwatch_event_target" "interruptions" {
  for_each = aws_cloudwatch_event_rule.interruptions

  rule      = each.value.name
  target_id = "karpenter"
  arn       = aws_sqs_queue.interruptions["this"].arn
}
