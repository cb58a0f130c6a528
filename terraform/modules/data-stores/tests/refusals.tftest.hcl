# What is refused; tests/terraform reads the messages.
mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name                     = "chat"
  vpc_id                   = "vpc-1"
  subnet_ids               = ["subnet-1", "subnet-2"]
  client_security_group_id = "sg-1"
}

run "refuses_one_zone" {
  command = plan
  variables {
    subnet_ids = ["subnet-1"]
  }
  expect_failures = [var.subnet_ids]
}

run "refuses_no_backups" {
  command = plan
  variables {
    backup_days = 0
  }
  expect_failures = [var.backup_days]
}

run "refuses_a_class_of_ec2" {
  command = plan
  variables {
    postgres_instance_class = "m7g.large"
  }
  expect_failures = [var.postgres_instance_class]
}

run "refuses_a_class_of_ec2_for_valkey" {
  command = plan
  variables {
    valkey_node_type = "m7g.large"
  }
  expect_failures = [var.valkey_node_type]
}

run "refuses_a_tiny_disk" {
  command = plan
  variables {
    postgres_storage_gb = 5
  }
  expect_failures = [var.postgres_storage_gb]
}

run "refuses_a_name_as_network" {
  command = plan
  variables {
    vpc_id = "main"
  }
  expect_failures = [var.vpc_id]
}

run "refuses_no_clients" {
  command = plan
  variables {
    client_security_group_id = ""
  }
  expect_failures = [var.client_security_group_id]
}
