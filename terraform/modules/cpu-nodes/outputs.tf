output "labels" {
  description = "Labels of the nodes."
  value       = local.labels
}

output "taints" {
  description = "Taints of the nodes, as Kubernetes writes them."
  value       = local.taints
}
