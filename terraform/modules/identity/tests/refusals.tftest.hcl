# What is refused; tests/terraform reads the messages.
mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name            = "chat-engine"
  oidc_provider   = { arn = "arn:aws:iam::123456789012:oidc-provider/x", issuer = "oidc.eks.us-east-1.amazonaws.com/id/X" }
  namespace       = "trireme"
  service_account = "trireme-engine"
}

run "refuses_all_actions" {
  command = plan
  variables {
    policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Action = "*", Resource = "arn:aws:s3:::b" }] })
  }
  expect_failures = [var.policy]
}

run "refuses_a_services_every_action" {
  command = plan
  variables {
    policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Action = ["s3:GetObject", "s3:*"], Resource = "arn:aws:s3:::b" }] })
  }
  expect_failures = [var.policy]
}

run "refuses_a_policy_that_is_no_json" {
  command = plan
  variables {
    policy = "s3:GetObject"
  }
  expect_failures = [var.policy]
}

run "refuses_every_namespace" {
  command = plan
  variables {
    namespace = "*"
  }
  expect_failures = [var.namespace]
}

run "refuses_every_service_account" {
  command = plan
  variables {
    service_account = "trireme-*"
  }
  expect_failures = [var.service_account]
}

run "refuses_the_administrators_policy" {
  command = plan
  variables {
    managed_policy_arns = ["arn:aws:iam::aws:policy/AdministratorAccess"]
  }
  expect_failures = [var.managed_policy_arns]
}

run "refuses_an_issuer_with_its_scheme" {
  command = plan
  variables {
    oidc_provider = { arn = "arn:aws:iam::123456789012:oidc-provider/x", issuer = "https://x" }
  }
  expect_failures = [var.oidc_provider]
}
