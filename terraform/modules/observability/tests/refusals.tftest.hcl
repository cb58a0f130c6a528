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

run "refuses_an_issuer_with_its_scheme" {
  command = plan
  variables {
    oidc_provider = { arn = "arn:aws:iam::123456789012:oidc-provider/x", issuer = "https://x" }
  }
  expect_failures = [var.oidc_provider]
}

run "refuses_a_cost_tag_of_awss_own" {
  command = plan
  variables {
    cost_tags = ["aws:createdBy"]
  }
  expect_failures = [var.cost_tags]
}

run "refuses_a_store_without_id" {
  command = plan
  variables {
    stores = { postgres = "" }
  }
  expect_failures = [var.stores]
}
