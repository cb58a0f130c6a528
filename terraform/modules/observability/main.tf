data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}

locals {
  contract   = yamldecode(file("${path.module}/../../../helm/trireme/node-contract.yaml"))
  prometheus = var.prometheus ? { this = var.name } : {}
  grafana    = var.grafana ? { this = var.name } : {}

  postgres_alarms = var.stores == null ? {} : {
    postgres-storage = {
      description = "PostgreSQL has less than 5 GB left"
      namespace   = "AWS/RDS"
      metric      = "FreeStorageSpace"
      dimensions  = { DBInstanceIdentifier = var.stores.postgres }
      statistic   = "Minimum"
      comparison  = "LessThanThreshold"
      threshold   = 5000000000
    }
    postgres-cpu = {
      description = "PostgreSQL has used more than 80 % of its CPU for 15 minutes"
      namespace   = "AWS/RDS"
      metric      = "CPUUtilization"
      dimensions  = { DBInstanceIdentifier = var.stores.postgres }
      statistic   = "Average"
      comparison  = "GreaterThanThreshold"
      threshold   = 80
    }
  }
  valkey_alarms = try(var.stores.valkey, null) == null ? {} : {
    valkey-memory = {
      description = "Valkey's memory is 80 % full: Ray's state must not be evicted"
      namespace   = "AWS/ElastiCache"
      metric      = "DatabaseMemoryUsagePercentage"
      dimensions  = { ReplicationGroupId = var.stores.valkey }
      statistic   = "Maximum"
      comparison  = "GreaterThanThreshold"
      threshold   = 80
    }
  }
}

module "key" {
  source = "../key"

  alias       = "${var.name}/observability"
  description = "Logs, metrics and alarms of ${var.name}"
  log_groups  = true
  services    = ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"]
}

resource "aws_cloudwatch_log_group" "pods" {
  name              = "/${var.name}/pods"
  retention_in_days = var.log_days
  kms_key_id        = module.key.arn
}

resource "aws_prometheus_workspace" "this" {
  for_each = local.prometheus

  alias       = each.value
  kms_key_arn = module.key.arn

  tags = { Name = each.value }
}

# The one role of what ships metrics and logs.
module "shipper" {
  source = "../identity"

  name            = "${var.name}-metrics"
  oidc_provider   = var.oidc_provider
  namespace       = local.contract.namespace
  service_account = local.contract.service_accounts.metrics

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat([
      {
        Sid      = "Logs"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
        Resource = "${aws_cloudwatch_log_group.pods.arn}:*"
      },
      ], [for workspace in aws_prometheus_workspace.this : {
        Sid      = "Metrics"
        Effect   = "Allow"
        Action   = ["aps:RemoteWrite"]
        Resource = workspace.arn
    }])
  })
}

resource "aws_iam_role" "grafana" {
  for_each = local.grafana

  name = "${var.name}-grafana"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "grafana.amazonaws.com" }
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.this.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "grafana" {
  for_each = var.prometheus ? local.grafana : {}

  name = "metrics"
  role = aws_iam_role.grafana["this"].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["aps:DescribeWorkspace", "aps:GetLabels", "aps:GetMetricMetadata", "aps:GetSeries", "aps:QueryMetrics"]
      Resource = aws_prometheus_workspace.this["this"].arn
    }]
  })
}

resource "aws_grafana_workspace" "this" {
  for_each = local.grafana

  name                     = each.value
  account_access_type      = "CURRENT_ACCOUNT"
  authentication_providers = ["AWS_SSO"]
  permission_type          = "SERVICE_MANAGED"
  role_arn                 = aws_iam_role.grafana["this"].arn
  data_sources             = var.prometheus ? ["PROMETHEUS"] : []
}

resource "aws_sns_topic" "alerts" {
  name              = "${var.name}-alerts"
  kms_master_key_id = module.key.arn
}

resource "aws_sns_topic_policy" "alerts" {
  arn = aws_sns_topic.alerts.arn

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "AlarmsAndBudgets"
      Effect    = "Allow"
      Action    = "sns:Publish"
      Principal = { Service = ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"] }
      Resource  = aws_sns_topic.alerts.arn
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.this.account_id } }
    }]
  })
}

resource "aws_sns_topic_subscription" "email" {
  for_each = var.alert_emails

  topic_arn = aws_sns_topic.alerts.arn
  protocol  = "email"
  endpoint  = each.value
}

resource "aws_cloudwatch_metric_alarm" "store" {
  for_each = merge(local.postgres_alarms, local.valkey_alarms)

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  period              = 300
  evaluation_periods  = 3
  alarm_actions       = [aws_sns_topic.alerts.arn]
  ok_actions          = [aws_sns_topic.alerts.arn]
}

resource "aws_budgets_budget" "this" {
  count = var.monthly_budget_usd == null ? 0 : 1

  name         = var.name
  budget_type  = "COST"
  limit_amount = tostring(var.monthly_budget_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  cost_filter {
    name   = "TagKeyValue"
    values = [join("$", ["user:trireme:installation", var.name])]
  }

  dynamic "notification" {
    for_each = { ACTUAL = 80, FORECASTED = 100 }
    content {
      notification_type          = notification.key
      comparison_operator        = "GREATER_THAN"
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = sort(tolist(var.alert_emails))
    }
  }
}

resource "aws_ce_cost_allocation_tag" "this" {
  for_each = var.cost_tags

  tag_key = each.value
  status  = "Active"
}
