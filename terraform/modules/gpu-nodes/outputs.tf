output "instance_type" {
  description = "Instance type of the nodes."
  value       = local.instance_type
}

output "nodes" {
  description = "Nodes to start with, and at most; and replicas on each."
  value       = { start = local.nodes, max = local.max_nodes, replicas_per_node = local.replicas_per_node }
}

output "labels" {
  description = "Labels of the nodes."
  value       = local.labels
}

output "taints" {
  description = "Taints of the nodes, as Kubernetes writes them."
  value       = local.taints
}

output "quota" {
  description = "EC2 quota that has to be granted before the nodes can all run, in vCPUs; null for capacity blocks."
  value       = local.quota == null ? null : merge(local.quota, { vcpus = local.max_nodes * local.facts_of_type.vcpus })
}

output "karpenter_manifests" {
  description = "The node pool as Kubernetes manifests, for kubectl apply, where Karpenter makes the nodes."
  value       = var.provisioner == "karpenter" ? join("---\n", [for manifest in local.karpenter_manifests : yamlencode(manifest)]) : null
}
