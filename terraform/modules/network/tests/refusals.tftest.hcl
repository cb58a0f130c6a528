# What is refused; tests/terraform reads the messages.
mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name               = "chat"
  availability_zones = ["us-east-1a", "us-east-1b", "us-east-1c"]
}

run "refuses_overlapping_networks" {
  command = plan
  variables {
    other_cidrs = ["10.40.128.0/20"]
  }
  expect_failures = [var.other_cidrs]
}

run "refuses_a_network_around_it" {
  command = plan
  variables {
    other_cidrs = ["10.0.0.0/8"]
  }
  expect_failures = [var.other_cidrs]
}

run "refuses_one_zone" {
  command = plan
  variables {
    availability_zones = ["us-east-1a"]
  }
  expect_failures = [var.availability_zones]
}

run "refuses_a_region_as_zone" {
  command = plan
  variables {
    availability_zones = ["us-east-1", "us-east-2"]
  }
  expect_failures = [var.availability_zones]
}

run "refuses_a_tiny_range" {
  command = plan
  variables {
    cidr = "10.40.0.0/24"
  }
  expect_failures = [var.cidr]
}

run "refuses_a_public_range" {
  command = plan
  variables {
    cidr = "52.0.0.0/16"
  }
  expect_failures = [var.cidr]
}

run "refuses_an_unknown_nat" {
  command = plan
  variables {
    nat = "both"
  }
  expect_failures = [var.nat]
}

run "refuses_endpoints_that_nodes_need_missing" {
  command = plan
  variables {
    endpoints = ["sts"]
  }
  expect_failures = [var.endpoints]
}

run "refuses_a_retention_that_aws_has_not" {
  command = plan
  variables {
    flow_log_days = 100
  }
  expect_failures = [var.flow_log_days]
}
