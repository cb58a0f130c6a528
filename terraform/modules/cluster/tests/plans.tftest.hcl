mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name       = "chat"
  vpc_id     = "vpc-1"
  subnet_ids = ["subnet-1", "subnet-2"]
}

run "the_api_is_private" {
  command = plan
  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_private_access && !aws_eks_cluster.this.vpc_config[0].endpoint_public_access
    error_message = "The API must be private."
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.api) == 0
    error_message = "Nobody but the nodes reaches it."
  }
}

run "a_public_api_has_its_allow_list" {
  command = plan
  variables {
    public_api       = true
    public_api_cidrs = ["203.0.113.7/32"]
  }
  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_public_access && aws_eks_cluster.this.vpc_config[0].public_access_cidrs == toset(["203.0.113.7/32"])
    error_message = "The allow-list is not as given."
  }
}

run "own_networks_reach_the_private_api" {
  command = plan
  variables {
    api_client_cidrs = ["10.0.0.0/16"]
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.api["10.0.0.0/16"].from_port == 443
    error_message = "The VPN must reach the API."
  }
}

run "secrets_and_logs_are_encrypted_and_everything_is_logged" {
  command = plan
  assert {
    condition     = aws_eks_cluster.this.encryption_config[0].resources == toset(["secrets"])
    error_message = "Secrets are not encrypted."
  }
  assert {
    condition     = length(aws_eks_cluster.this.enabled_cluster_log_types) == 5
    error_message = "All five logs are kept."
  }
}

run "whoever_makes_it_administers_it_unless_roles_are_named" {
  command = plan
  assert {
    condition     = aws_eks_cluster.this.access_config[0].bootstrap_cluster_creator_admin_permissions && length(aws_eks_access_entry.admin) == 0
    error_message = "The creator must have access."
  }
}

run "named_roles_administer_it" {
  command = plan
  variables {
    admin_role_arns = ["arn:aws:iam::123456789012:role/platform"]
  }
  assert {
    condition     = !aws_eks_cluster.this.access_config[0].bootstrap_cluster_creator_admin_permissions && length(aws_eks_access_policy_association.admin) == 1
    error_message = "The named role alone has access."
  }
}

run "addons_run_as_roles_of_their_own" {
  command = plan
  assert {
    condition     = toset(keys(module.addon_role)) == toset(["vpc-cni", "aws-ebs-csi-driver"]) && length(aws_eks_addon.this) == 4
    error_message = "Each add-on that calls AWS has its role."
  }
  assert {
    condition     = jsondecode(aws_eks_addon.this["vpc-cni"].configuration_values).enableNetworkPolicy == "true"
    error_message = "NetworkPolicies must be enforced."
  }
}

run "without_addons_nothing_of_them_is_left" {
  command = plan
  variables {
    addons = {}
  }
  assert {
    condition     = length(module.addon_role) == 0 && length(aws_eks_addon.this) == 0
    error_message = "Roles without add-ons."
  }
}

run "nodes_may_join_and_pull_images_and_no_more" {
  command = plan
  assert {
    condition     = toset(keys(aws_iam_role_policy_attachment.node)) == toset(["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly"])
    error_message = "Nodes may do other things too."
  }
}

run "the_cluster_autoscaler_scales_this_clusters_groups_alone" {
  command = plan
  assert {
    condition     = local.autoscaler_policies.cluster-autoscaler.Statement[2].Condition.StringEquals["aws:ResourceTag/eks:cluster-name"] == "chat"
    error_message = "It may scale others too."
  }
  assert {
    condition     = length(aws_sqs_queue.interruptions) == 0 && output.node_autoscaler.kind == "cluster-autoscaler"
    error_message = "No queue is needed."
  }
}

run "karpenter_gets_its_queue_role_and_profile" {
  command = plan
  variables {
    node_autoscaler = "karpenter"
  }
  assert {
    condition     = length(aws_cloudwatch_event_rule.interruptions) == 4 && output.node_autoscaler.queue == "chat-interruptions" && output.node_autoscaler.instance_profile == "chat-node"
    error_message = "Something of Karpenter is missing."
  }
}

run "no_autoscaler_no_role" {
  command = plan
  variables {
    node_autoscaler = "none"
  }
  assert {
    condition     = length(module.autoscaler_role) == 0
    error_message = "A role for nobody."
  }
}

run "image_repositories_are_immutable_and_scanned" {
  command = plan
  variables {
    image_repositories = ["trireme/engine"]
  }
  assert {
    condition     = aws_ecr_repository.this["trireme/engine"].image_tag_mutability == "IMMUTABLE" && aws_ecr_repository.this["trireme/engine"].name == "chat/trireme/engine"
    error_message = "The repository is not as it should be."
  }
}
