# What is refused; tests/terraform reads the messages.
mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name          = "chat"
  vpc_id        = "vpc-1"
  oidc_provider = { arn = "arn:aws:iam::123456789012:oidc-provider/x", issuer = "oidc.eks.us-east-1.amazonaws.com/id/X" }
}

run "refuses_no_model" {
  command = plan
  variables {
    models = []
  }
  expect_failures = [var.models]
}

run "refuses_a_path_as_model" {
  command = plan
  variables {
    models = ["openai/gpt-oss-120b"]
  }
  expect_failures = [var.models]
}

run "refuses_versions_that_go_at_once" {
  command = plan
  variables {
    noncurrent_days = 1
  }
  expect_failures = [var.noncurrent_days]
}

run "refuses_a_name_as_network" {
  command = plan
  variables {
    vpc_id = "main"
  }
  expect_failures = [var.vpc_id]
}

run "refuses_an_issuer_with_its_scheme" {
  command = plan
  variables {
    oidc_provider = { arn = "arn:aws:iam::123456789012:oidc-provider/x", issuer = "https://x" }
  }
  expect_failures = [var.oidc_provider]
}
