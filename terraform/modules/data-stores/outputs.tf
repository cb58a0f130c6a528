output "redis" {
  description = "Where Ray's GCS and the quotas find Valkey; null without it."
  value = one([for group in aws_elasticache_replication_group.this : {
    host       = group.primary_endpoint_address
    port       = group.port
    tls        = true
    secret_arn = aws_secretsmanager_secret.this["valkey"].arn
  }])
}

output "database" {
  description = "Where tenants, keys and usage are stored."
  value = {
    host       = aws_db_instance.this.address
    port       = aws_db_instance.this.port
    name       = aws_db_instance.this.db_name
    user       = aws_db_instance.this.username
    tls        = true
    secret_arn = aws_secretsmanager_secret.this["database"].arn
  }
}

output "ids" {
  description = "Names under which CloudWatch knows the stores."
  value       = { postgres = var.name, valkey = var.valkey ? var.name : null }
}

output "secret_commands" {
  description = "Copy the passwords into the Kubernetes secrets that the chart expects; for those who run no external-secrets operator."
  value = merge(
    { for secret in aws_elasticache_replication_group.this[*].id : "redis" => join(" ", [
      "kubectl create secret generic ${local.contract.secrets.redis.name} --namespace ${local.contract.namespace}",
      "--from-literal=${local.contract.secrets.redis.key}=\"$(aws secretsmanager get-secret-value --query SecretString --output text --secret-id ${aws_secretsmanager_secret.this["valkey"].arn})\"",
    ]) },
    { database = join(" ", [
      "kubectl create secret generic ${local.contract.secrets.database.name} --namespace ${local.contract.namespace}",
      "--from-literal=${local.contract.secrets.database.key}=\"postgresql://${aws_db_instance.this.username}:$(aws secretsmanager get-secret-value --query SecretString --output text --secret-id ${aws_secretsmanager_secret.this["database"].arn})@${aws_db_instance.this.address}:${aws_db_instance.this.port}/${aws_db_instance.this.db_name}?sslmode=verify-full\"",
    ]) },
  )
}
