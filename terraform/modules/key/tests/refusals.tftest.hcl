# What is refused; tests/terraform reads the messages.
mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  alias       = "chat/weights"
  description = "Weights of chat"
}

run "refuses_an_alias_of_aws" {
  command = plan
  variables {
    alias = "aws/s3"
  }
  expect_failures = [var.alias]
}

run "refuses_a_key_that_nobody_explains" {
  command = plan
  variables {
    description = "key"
  }
  expect_failures = [var.description]
}

run "refuses_everything_as_a_service" {
  command = plan
  variables {
    services = ["*"]
  }
  expect_failures = [var.services]
}
