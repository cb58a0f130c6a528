# What is refused; tests/terraform reads the messages.
mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name       = "chat"
  role       = "gateway"
  subnet_ids = ["subnet-1", "subnet-2"]
  cluster    = { name = "chat", version = "1.33", node_role_arn = "arn:aws:iam::123456789012:role/chat-node", security_group_id = "sg-1" }
}

run "refuses_an_unknown_role" {
  command = plan
  variables {
    role = "engine"
  }
  expect_failures = [var.role]
}

run "refuses_arm_machines" {
  command = plan
  variables {
    instance_types = ["m7g.4xlarge"]
  }
  expect_failures = [var.instance_types]
}

run "refuses_machines_of_several_sizes" {
  command = plan
  variables {
    instance_types = ["m7i.4xlarge", "m7i.large"]
  }
  expect_failures = [var.instance_types]
}

run "refuses_fewer_at_most_than_at_least" {
  command = plan
  variables {
    min_nodes = 4
    max_nodes = 2
  }
  expect_failures = [var.max_nodes]
}

run "refuses_one_zone" {
  command = plan
  variables {
    subnet_ids = ["subnet-1"]
  }
  expect_failures = [var.subnet_ids]
}

run "refuses_a_tag_of_awss_own" {
  command = plan
  variables {
    tags = { "aws:owner" = "me" }
  }
  expect_failures = [var.tags]
}

run "refuses_a_role_without_arn" {
  command = plan
  variables {
    cluster = { name = "chat", version = "1.33", node_role_arn = "chat-node", security_group_id = "sg-1" }
  }
  expect_failures = [var.cluster]
}
