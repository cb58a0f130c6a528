# What is refused; tests/terraform reads the messages.
mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name                 = "chat"
  pool                 = "main"
  gpu                  = "h100"
  tensor_parallel_size = 2
  replicas             = 5
  max_replicas         = 9
  vpc_id               = "vpc-1"
  subnet_ids           = ["subnet-1", "subnet-2"]
  cluster              = { name = "chat", version = "1.33", node_role_arn = "arn:aws:iam::123456789012:role/chat-node", security_group_id = "sg-1" }
}

run "refuses_an_unknown_gpu" {
  command = plan
  variables {
    gpu = "a10g"
  }
  expect_failures = [var.gpu]
}

run "refuses_a_type_without_quota_family" {
  command = plan
  variables {
    instance_type = "p3.16xlarge"
  }
  expect_failures = [var.instance_type]
}

run "refuses_a_type_with_other_gpus" {
  command = plan
  variables {
    instance_type = "p5en.48xlarge"
  }
  expect_failures = [var.instance_type]
}

run "refuses_a_tp_larger_than_the_node" {
  command = plan
  variables {
    instance_type = "p5.4xlarge"
  }
  expect_failures = [var.tensor_parallel_size]
}

run "refuses_a_tp_that_does_not_hold_the_model" {
  command = plan
  variables {
    gpu                  = "l40s"
    tensor_parallel_size = 1
  }
  expect_failures = [var.tensor_parallel_size]
}

run "refuses_a_tp_that_splits_kv_heads" {
  command = plan
  variables {
    tensor_parallel_size = 3
  }
  expect_failures = [var.tensor_parallel_size]
}

run "refuses_half_a_replica" {
  command = plan
  variables {
    replicas = 1.5
  }
  expect_failures = [var.replicas]
}

run "refuses_less_at_most_than_at_first" {
  command = plan
  variables {
    max_replicas = 2
  }
  expect_failures = [var.max_replicas]
}

run "refuses_a_way_to_buy_that_ec2_has_not" {
  command = plan
  variables {
    capacity       = "reservation"
    reservation_id = "cr-0123456789abcdef0"
    subnet_ids     = ["subnet-1"]
    gpu            = "h200"
    instance_type  = "p5e.48xlarge"
  }
  expect_failures = [var.capacity]
}

run "refuses_spot_whose_quota_is_not_known" {
  command = plan
  variables {
    capacity   = "spot"
    owns_tiers = false
    gpu        = "b200"
  }
  expect_failures = [var.capacity]
}

run "refuses_a_tier_of_its_own_on_spot" {
  command = plan
  variables {
    capacity = "spot"
  }
  expect_failures = [var.owns_tiers]
}

run "refuses_a_reservation_without_id" {
  command = plan
  variables {
    capacity = "reservation"
  }
  expect_failures = [var.reservation_id]
}

run "refuses_an_id_without_reservation" {
  command = plan
  variables {
    reservation_id = "cr-0123456789abcdef0"
    subnet_ids     = ["subnet-1"]
  }
  expect_failures = [var.reservation_id]
}

run "refuses_a_reservation_over_two_zones" {
  command = plan
  variables {
    capacity       = "reservation"
    reservation_id = "cr-0123456789abcdef0"
  }
  expect_failures = [var.subnet_ids]
}

run "refuses_efa_where_there_is_none" {
  command = plan
  variables {
    gpu                  = "l40s"
    instance_type        = "g6e.4xlarge"
    model                = "gpt-oss-20b"
    tensor_parallel_size = 1
    efa                  = true
  }
  expect_failures = [var.efa]
}

run "refuses_karpenter_without_profile" {
  command = plan
  variables {
    provisioner = "karpenter"
  }
  expect_failures = [var.cluster]
}

run "refuses_a_small_disk" {
  command = plan
  variables {
    root_volume_gb = 20
  }
  expect_failures = [var.root_volume_gb]
}

run "refuses_a_name_as_network" {
  command = plan
  variables {
    vpc_id = "main"
  }
  expect_failures = [var.vpc_id]
}

run "refuses_a_tag_of_awss_own" {
  command = plan
  variables {
    tags = { "aws:owner" = "me" }
  }
  expect_failures = [var.tags]
}
