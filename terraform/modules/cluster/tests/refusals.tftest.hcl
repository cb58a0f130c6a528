# What is refused; tests/terraform reads the messages.
mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name       = "chat"
  vpc_id     = "vpc-1"
  subnet_ids = ["subnet-1", "subnet-2"]
}

run "refuses_a_public_api_without_allow_list" {
  command = plan
  variables {
    public_api = true
  }
  expect_failures = [var.public_api_cidrs]
}

run "refuses_a_public_api_for_everybody" {
  command = plan
  variables {
    public_api       = true
    public_api_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.public_api_cidrs]
}

run "refuses_an_internal_api_for_everybody" {
  command = plan
  variables {
    api_client_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.api_client_cidrs]
}

run "refuses_an_old_kubernetes" {
  command = plan
  variables {
    kubernetes_version = "1.28"
  }
  expect_failures = [var.kubernetes_version]
}

run "refuses_a_user_as_administrator" {
  command = plan
  variables {
    admin_role_arns = ["arn:aws:iam::123456789012:user/me"]
  }
  expect_failures = [var.admin_role_arns]
}

run "refuses_an_unknown_autoscaler" {
  command = plan
  variables {
    node_autoscaler = "magic"
  }
  expect_failures = [var.node_autoscaler]
}

run "refuses_one_subnet" {
  command = plan
  variables {
    subnet_ids = ["subnet-1"]
  }
  expect_failures = [var.subnet_ids]
}

run "refuses_an_image_with_its_tag" {
  command = plan
  variables {
    image_repositories = ["trireme/engine:1.0"]
  }
  expect_failures = [var.image_repositories]
}

run "refuses_services_in_a_tiny_range" {
  command = plan
  variables {
    service_cidr = "172.20.0.0/28"
  }
  expect_failures = [var.service_cidr]
}

run "refuses_a_name_as_network" {
  command = plan
  variables {
    vpc_id = "main"
  }
  expect_failures = [var.vpc_id]
}

run "refuses_an_addons_version_of_its_makers" {
  command = plan
  variables {
    addons = { vpc-cni = { version = "1.19" } }
  }
  expect_failures = [var.addons]
}
