mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name       = "chat"
  role       = "gateway"
  subnet_ids = ["subnet-1", "subnet-2"]
  cluster    = { name = "chat", version = "1.33", node_role_arn = "arn:aws:iam::123456789012:role/chat-node", security_group_id = "sg-1" }
}

run "gateway_nodes_keep_others_away" {
  command = plan
  assert {
    condition     = aws_eks_node_group.this.labels == tomap({ "trireme.dev/role" = "gateway" }) && [for taint in aws_eks_node_group.this.taint : "${taint.key}=${taint.value}:${taint.effect}"] == ["trireme.dev/role=gateway:NO_SCHEDULE"]
    error_message = "Labels or taints differ from the contract."
  }
}

run "system_nodes_take_everything_else" {
  command = plan
  variables {
    role = "system"
  }
  assert {
    condition     = length(aws_eks_node_group.this.taint) == 0 && output.labels["trireme.dev/role"] == "system"
    error_message = "DNS and operators have no toleration."
  }
}

run "sizes_are_as_asked" {
  command = plan
  variables {
    min_nodes = 3
    max_nodes = 9
  }
  assert {
    condition     = aws_eks_node_group.this.scaling_config[0].min_size == 3 && aws_eks_node_group.this.scaling_config[0].max_size == 9
    error_message = "Other sizes."
  }
}

run "machines_ask_for_tokens_and_encrypt_their_disks" {
  command = plan
  assert {
    condition     = aws_launch_template.this.metadata_options[0].http_tokens == "required" && aws_launch_template.this.block_device_mappings[0].ebs[0].encrypted == "true"
    error_message = "The machines are not hardened."
  }
}
