output "kubeconfig_command" {
  description = "Makes kubectl reach the cluster, from one of my_addresses."
  value       = module.cluster.kubeconfig_command
}

output "quotas" {
  description = "EC2 quotas to have granted before the GPU nodes can run, by pool; in vCPUs."
  value       = { for name, nodes in module.gpu_nodes : name => nodes.quota }
}

output "upload_commands" {
  description = "Bring the weights into the bucket."
  value       = module.weights_store.upload_commands
}

output "helm_values" {
  description = "Values for the chart."
  value       = module.trireme.helm_values
}

output "install_commands" {
  description = "Install the chart with these values."
  value       = module.trireme.install_commands
}
