output "remote_write_url" {
  description = "Where Prometheus sends its samples; null without a workspace."
  value       = one([for workspace in aws_prometheus_workspace.this : "${workspace.prometheus_endpoint}api/v1/remote_write"])
}

output "metrics_role_arn" {
  description = "Role of the service account that ships metrics and logs."
  value       = module.shipper.arn
}

output "log_group" {
  description = "Log group of the pods."
  value       = aws_cloudwatch_log_group.pods.name
}

output "alerts_topic_arn" {
  description = "Topic of alarms; Alertmanager can send there too."
  value       = aws_sns_topic.alerts.arn
}

output "grafana_url" {
  description = "Address of Grafana; null without a workspace."
  value       = one([for workspace in aws_grafana_workspace.this : "https://${workspace.endpoint}"])
}
