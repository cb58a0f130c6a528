mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name               = "chat"
  availability_zones = ["us-east-1a", "us-east-1b", "us-east-1c"]
}

run "a_zone_each_and_one_way_out" {
  command = plan
  assert {
    condition     = length(aws_subnet.private) == 3 && length(aws_subnet.data) == 3 && length(aws_subnet.public) == 3
    error_message = "Each zone has three subnets."
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_route.out) == 3
    error_message = "One NAT gateway serves all zones."
  }
  assert {
    condition     = aws_subnet.private["us-east-1a"].cidr_block == "10.40.0.0/18" && aws_subnet.public["us-east-1a"].cidr_block == "10.40.192.0/22" && aws_subnet.data["us-east-1a"].cidr_block == "10.40.208.0/22"
    error_message = "The ranges are not those of the picture."
  }
}

run "per_zone_each_zone_has_its_own_way_out" {
  command = plan
  variables {
    nat = "per-zone"
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 3 && length(aws_eip.nat) == 3
    error_message = "Each zone has a gateway."
  }
}

run "without_nat_there_is_no_internet" {
  command = plan
  variables {
    nat = "none"
  }
  assert {
    condition     = length(aws_internet_gateway.this) == 0 && length(aws_nat_gateway.this) == 0 && length(aws_subnet.public) == 0 && length(aws_route.out) == 0 && length(aws_route.internet) == 0
    error_message = "Nothing leads out."
  }
  assert {
    condition     = length(aws_vpc_endpoint.service) == 8
    error_message = "AWS is reached inside."
  }
}

run "load_balancers_may_be_public_without_nat" {
  command = plan
  variables {
    nat                   = "none"
    public_load_balancers = true
  }
  assert {
    condition     = length(aws_subnet.public) == 3 && length(aws_nat_gateway.this) == 0
    error_message = "Only the load balancers are public."
  }
}

run "gpu_nodes_need_no_nat_for_weights_and_images" {
  command = plan
  assert {
    condition     = aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway" && aws_vpc_endpoint.s3.service_name == "com.amazonaws.us-east-1.s3"
    error_message = "S3 has its free endpoint."
  }
  assert {
    condition     = length(setsubtract(["ecr.api", "ecr.dkr", "sts", "ec2"], keys(aws_vpc_endpoint.service))) == 0
    error_message = "Images and identities have theirs."
  }
  assert {
    condition     = alltrue([for endpoint in aws_vpc_endpoint.service : endpoint.private_dns_enabled])
    error_message = "Names lead to the endpoints."
  }
}

run "endpoints_answer_the_vpc_alone" {
  command = plan
  assert {
    condition     = aws_vpc_security_group_ingress_rule.endpoints.cidr_ipv4 == var.cidr && aws_vpc_security_group_ingress_rule.endpoints.from_port == 443
    error_message = "Only HTTPS from the VPC."
  }
}

run "no_subnet_gives_public_addresses" {
  command = plan
  assert {
    condition     = alltrue([for subnet in aws_subnet.public : !subnet.map_public_ip_on_launch])
    error_message = "A machine got a public address by itself."
  }
}

run "flows_are_logged_and_encrypted" {
  command = plan
  variables {
    flow_log_days = 90
  }
  assert {
    condition     = aws_flow_log.this.traffic_type == "ALL" && aws_cloudwatch_log_group.flow.retention_in_days == 90
    error_message = "Flows are kept as asked."
  }
}

run "load_balancers_find_their_subnets" {
  command = plan
  assert {
    condition     = alltrue([for subnet in aws_subnet.private : subnet.tags["kubernetes.io/role/internal-elb"] == "1"]) && alltrue([for subnet in aws_subnet.public : subnet.tags["kubernetes.io/role/elb"] == "1"])
    error_message = "Subnets are not tagged for load balancers."
  }
}
