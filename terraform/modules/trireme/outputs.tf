output "namespace" {
  description = "Namespace to install into; the cloud roles are bound to it."
  value       = local.contract.namespace
}

output "values" {
  description = "Helm values, as an object."
  value       = local.values
}

output "helm_values" {
  description = "Helm values, as YAML."
  value       = yamlencode(local.values)
}

output "install_commands" {
  description = "Installs the chart with these values; to be run where the Kubernetes API is reached."
  value = [
    "terraform output -raw helm_values > values-infrastructure.yaml",
    "helm upgrade --install ${var.name} ./helm/trireme --namespace ${local.contract.namespace} --create-namespace -f values-infrastructure.yaml",
  ]
}
