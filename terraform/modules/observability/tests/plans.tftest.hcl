mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name          = "chat"
  oidc_provider = { arn = "arn:aws:iam::123456789012:oidc-provider/x", issuer = "oidc.eks.us-east-1.amazonaws.com/id/X" }
}

run "metrics_have_a_workspace" {
  command = plan
  assert {
    condition     = length(aws_prometheus_workspace.this) == 1 && length(aws_grafana_workspace.this) == 0
    error_message = "Prometheus, and no Grafana unless asked for."
  }
}

run "ones_own_prometheus_needs_none" {
  command = plan
  variables {
    prometheus = false
  }
  assert {
    condition     = length(aws_prometheus_workspace.this) == 0 && output.remote_write_url == null
    error_message = "Nobody asked for a workspace."
  }
}

run "grafana_reads_the_workspace" {
  command = plan
  variables {
    grafana = true
  }
  assert {
    condition     = length(aws_grafana_workspace.this) == 1 && length(aws_iam_role_policy.grafana) == 1
    error_message = "Grafana cannot read."
  }
}

run "a_budget_warns_before_and_after" {
  command = plan
  variables {
    monthly_budget_usd = 1000
    alert_emails       = ["a@example.com"]
  }
  assert {
    condition     = aws_budgets_budget.this[0].limit_amount == "1000" && length(aws_budgets_budget.this[0].notification) == 2
    error_message = "Two warnings."
  }
  assert {
    condition     = one(aws_budgets_budget.this[0].cost_filter).values == tolist(["user:trireme:installation$chat"])
    error_message = "The budget counts other things too."
  }
}

run "without_a_budget_none_is_made" {
  command = plan
  assert {
    condition     = length(aws_budgets_budget.this) == 0
    error_message = "Nobody asked for a budget."
  }
}

run "stores_are_watched" {
  command = plan
  variables {
    stores = { postgres = "chat", valkey = "chat" }
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.store) == 3
    error_message = "Storage, CPU and memory."
  }
}

run "everybody_named_is_told" {
  command = plan
  variables {
    alert_emails = ["a@example.com", "b@example.com"]
  }
  assert {
    condition     = length(aws_sns_topic_subscription.email) == 2
    error_message = "A subscription each."
  }
}

run "logs_are_kept_as_asked" {
  command = plan
  variables {
    log_days = 30
  }
  assert {
    condition     = aws_cloudwatch_log_group.pods.retention_in_days == 30
    error_message = "Other days."
  }
}

run "cost_tags_are_activated_by_the_paying_account" {
  command = plan
  variables {
    cost_tags = ["trireme:installation"]
  }
  assert {
    condition     = length(aws_ce_cost_allocation_tag.this) == 1
    error_message = "The tag is not visible."
  }
}
