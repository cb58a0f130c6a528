# What is refused; tests/terraform reads the messages.
mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name          = "chat"
  oidc_provider = { arn = "arn:aws:iam::123456789012:oidc-provider/x", issuer = "oidc.eks.us-east-1.amazonaws.com/id/X" }
}

run "refuses_a_budget_nobody_hears_of" {
  command = plan
  variables {
    monthly_budget_usd = 1000
  }
  expect_failures = [var.monthly_budget_usd]
}

run "refuses_a_budget_of_nothing" {
  command = plan
  variables {
    monthly_budget_usd = 0
    alert_emails       = ["a@example.com"]
  }
  expect_failures = [var.monthly_budget_usd]
}

run "refuses_a_name_as_address" {
  command = plan
  variables {
    alert_emails = ["oncall"]
  }
  expect_failures = [var.alert_emails]
}

run "refuses_a_retention_that_aws_has_not" {
  command = plan
  variables {
    log_days = 5
  }
  expect_failures = [var.log_days]
}
