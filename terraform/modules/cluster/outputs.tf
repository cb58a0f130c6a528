output "name" {
  description = "Name of the cluster; known once its nodes may join."
  value       = aws_eks_cluster.this.name
}

output "endpoint" {
  description = "URL of the Kubernetes API."
  value       = aws_eks_cluster.this.endpoint
}

output "certificate_authority" {
  description = "The API's certificate authority, in base64."
  value       = aws_eks_cluster.this.certificate_authority[0].data
}

output "oidc_provider" {
  description = "Identity provider of service accounts."
  value       = local.oidc_provider
}

output "security_group_id" {
  description = "Group of all nodes and of the control plane; EKS makes it."
  value       = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
}

output "node_role_arn" {
  description = "Role of all nodes."
  value       = aws_iam_role.node.arn
  # Without these policies a node could not join.
  depends_on = [aws_iam_role_policy_attachment.node]
}

output "node_autoscaler" {
  description = "What adds nodes, and what its own Helm chart needs."
  value = {
    kind             = var.node_autoscaler
    role_arn         = one(module.autoscaler_role[*].arn)
    queue            = one([for queue in aws_sqs_queue.interruptions : queue.name])
    instance_profile = one([for profile in aws_iam_instance_profile.node : profile.name])
  }
}

output "image_repositories" {
  description = "URLs of the container repositories, by name."
  value       = { for name, repository in aws_ecr_repository.this : name => repository.repository_url }
}

output "kubeconfig_command" {
  description = "Makes kubectl reach this cluster."
  value       = "aws eks update-kubeconfig --name ${aws_eks_cluster.this.name} --region ${data.aws_region.this.name}"
}
