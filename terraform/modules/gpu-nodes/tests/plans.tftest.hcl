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

run "nodes_are_as_many_as_the_replicas_need" {
  command = plan
  assert {
    condition     = output.nodes == { start = 2, max = 3, replicas_per_node = 4 }
    error_message = "5 replicas of 2 GPUs need 2 nodes of 8; 9 need 3."
  }
  assert {
    condition     = aws_eks_node_group.this["this"].scaling_config[0].min_size == 2 && aws_eks_node_group.this["this"].scaling_config[0].max_size == 3
    error_message = "The node group has other sizes."
  }
}

run "labels_and_taints_are_those_of_the_contract" {
  command = plan
  assert {
    condition     = aws_eks_node_group.this["this"].labels == tomap({ "trireme.dev/role" = "engine", "trireme.dev/pool" = "main", "trireme.dev/gpu" = "H100", "trireme.dev/capacity" = "steady" })
    error_message = "Labels differ."
  }
  assert {
    condition     = [for taint in aws_eks_node_group.this["this"].taint : "${taint.key}=${taint.value}:${taint.effect}"] == ["nvidia.com/gpu=present:NO_SCHEDULE"]
    error_message = "Taints differ."
  }
}

run "machines_ask_for_tokens_and_encrypt_their_disks" {
  command = plan
  assert {
    condition     = aws_launch_template.this["this"].metadata_options[0].http_tokens == "required" && aws_launch_template.this["this"].metadata_options[0].http_put_response_hop_limit == 1
    error_message = "Pods must not reach the metadata service."
  }
  assert {
    condition     = aws_launch_template.this["this"].block_device_mappings[0].ebs[0].encrypted == "true"
    error_message = "The disk must be encrypted."
  }
}

run "local_disks_become_one_volume" {
  command = plan
  assert {
    condition     = strcontains(base64decode(aws_launch_template.this["this"].user_data), "RAID0")
    error_message = "Local disks are not used."
  }
}

run "the_image_has_nvidia_drivers" {
  command = plan
  assert {
    condition     = aws_eks_node_group.this["this"].ami_type == "AL2023_x86_64_NVIDIA" && aws_launch_template.this["this"].instance_type == "p5.48xlarge"
    error_message = "Wrong image or machine."
  }
}

run "machines_and_disks_carry_the_tags" {
  command = plan
  variables {
    tags = { owner = "platform" }
  }
  assert {
    condition     = alltrue([for spec in aws_launch_template.this["this"].tag_specifications : spec.tags.owner == "platform" && spec.tags["trireme:pool"] == "main"]) && length(aws_launch_template.this["this"].tag_specifications) == 3
    error_message = "Tags do not reach the machines."
  }
}

run "a_lending_pool_may_stand_on_spot" {
  command = plan
  variables {
    capacity   = "spot"
    owns_tiers = false
  }
  assert {
    condition     = aws_eks_node_group.this["this"].capacity_type == "SPOT" && aws_eks_node_group.this["this"].scaling_config[0].min_size == 0
    error_message = "Spot nodes may all go."
  }
  assert {
    condition     = [for taint in output.taints : taint.key] == ["nvidia.com/gpu", "trireme.dev/interruptible"] && output.labels["trireme.dev/capacity"] == "interruptible"
    error_message = "Spot nodes must be kept apart."
  }
  assert {
    condition     = output.quota.code == "L-C4BD4855" && output.quota.vcpus == 576
    error_message = "The quota is that of P5 spot."
  }
}

run "a_reservation_is_targeted" {
  command = plan
  variables {
    capacity       = "reservation"
    reservation_id = "cr-0123456789abcdef0"
    subnet_ids     = ["subnet-1"]
  }
  assert {
    condition     = aws_launch_template.this["this"].capacity_reservation_specification[0].capacity_reservation_target[0].capacity_reservation_id == "cr-0123456789abcdef0" && aws_eks_node_group.this["this"].capacity_type == "ON_DEMAND" && length(aws_launch_template.this["this"].instance_market_options) == 0
    error_message = "The reservation is not used."
  }
}

run "a_capacity_block_is_bought_as_such" {
  command = plan
  variables {
    capacity       = "capacity-block"
    reservation_id = "cr-0123456789abcdef0"
    subnet_ids     = ["subnet-1"]
  }
  assert {
    condition     = aws_launch_template.this["this"].instance_market_options[0].market_type == "capacity-block" && aws_eks_node_group.this["this"].capacity_type == "CAPACITY_BLOCK" && output.quota == null
    error_message = "The block is not used."
  }
}

run "efa_is_there_when_asked_for" {
  command = plan
  variables {
    efa = true
  }
  assert {
    condition     = length(aws_launch_template.this["this"].network_interfaces) == 32 && aws_launch_template.this["this"].network_interfaces[0].interface_type == "efa" && aws_launch_template.this["this"].network_interfaces[31].interface_type == "efa-only"
    error_message = "All 32 interfaces of a p5."
  }
  assert {
    condition     = length(aws_placement_group.efa) == 1 && length(aws_vpc_security_group_egress_rule.efa) == 1
    error_message = "EFA needs nearness and its own group."
  }
}

run "efa_is_not_there_otherwise" {
  command = plan
  assert {
    condition     = length(aws_launch_template.this["this"].network_interfaces) == 0 && length(aws_placement_group.efa) == 0
    error_message = "Nobody asked for EFA."
  }
}

run "on_demand_names_its_quota" {
  command = plan
  assert {
    condition     = output.quota.code == "L-417A185B" && output.quota.vcpus == 576
    error_message = "3 nodes of 192 vCPUs."
  }
}

run "an_instance_type_can_be_chosen" {
  command = plan
  variables {
    instance_type        = "p5.4xlarge"
    tensor_parallel_size = 1
  }
  assert {
    condition     = output.instance_type == "p5.4xlarge" && output.nodes.start == 5
    error_message = "A GPU each."
  }
}

run "karpenter_makes_the_nodes_instead" {
  command = plan
  variables {
    provisioner = "karpenter"
    cluster     = { name = "chat", version = "1.33", node_role_arn = "arn:aws:iam::123456789012:role/chat-node", security_group_id = "sg-1", instance_profile = "chat-node" }
  }
  assert {
    condition     = length(aws_eks_node_group.this) == 0 && length(aws_launch_template.this) == 0
    error_message = "The node group must not be there."
  }
  assert {
    condition     = yamldecode(split("---\n", output.karpenter_manifests)[1]).spec.template.metadata.labels == local.labels
    error_message = "Labels differ between the two ways."
  }
  assert {
    condition     = yamldecode(split("---\n", output.karpenter_manifests)[1]).spec.limits["nvidia.com/gpu"] == "24"
    error_message = "Karpenter must not exceed the maximum."
  }
  assert {
    condition     = yamldecode(split("---\n", output.karpenter_manifests)[0]).spec.metadataOptions.httpTokens == "required"
    error_message = "Machines must ask for tokens."
  }
}
