output "kubeconfig_command" {
  description = "Makes kubectl reach the cluster, from a network in api_client_cidrs."
  value       = module.cluster.kubeconfig_command
}

output "quotas" {
  description = "EC2 quotas to have granted before the GPU nodes can run, by pool; in vCPUs."
  value       = { for name, nodes in module.gpu_nodes : name => nodes.quota }
}

output "image_repositories" {
  description = "Repositories to push the images to, from a machine that reaches them."
  value       = module.cluster.image_repositories
}

output "upload_commands" {
  description = "Bring the weights into the bucket."
  value       = module.weights_store.upload_commands
}

output "secret_commands" {
  description = "Copy the stores' passwords into Kubernetes."
  value       = module.data_stores.secret_commands
}

output "node_autoscaler" {
  description = "What the autoscaler's own chart needs."
  value       = module.cluster.node_autoscaler
}

output "helm_values" {
  description = "Values for the chart."
  value       = module.trireme.helm_values
}

output "install_commands" {
  description = "Install the chart with these values."
  value       = module.trireme.install_commands
}

output "alerts_topic_arn" {
  description = "Topic that Alertmanager can send to."
  value       = module.observability.alerts_topic_arn
}
