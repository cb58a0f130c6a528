output "bucket" {
  description = "Name of the bucket."
  value       = aws_s3_bucket.this.id
}

output "uris" {
  description = "Where each model's weights lie."
  value       = { for model in var.models : model => "s3://${aws_s3_bucket.this.id}/models/${model}/" }
}

output "key_arn" {
  description = "Key of the bucket."
  value       = module.key.arn
}

output "reader_role_arn" {
  description = "Role of the engine's service account: reads the weights, and nothing else."
  value       = module.reader.arn
}

output "verified_files" {
  description = "Files that were compared with their manifests."
  value       = length(local.files)
}

output "upload_commands" {
  description = "Bring the weights of each model from a folder into the bucket, the manifest last."
  value = { for model in var.models : model => join(" && ", [
    "trireme cloud manifest ./${model} > ./${model}/manifest.json",
    "aws s3 cp --recursive --exclude manifest.json ./${model} s3://${aws_s3_bucket.this.id}/models/${model}/",
    "aws s3 cp ./${model}/manifest.json s3://${aws_s3_bucket.this.id}/models/${model}/manifest.json --content-type application/json",
  ]) }
}
