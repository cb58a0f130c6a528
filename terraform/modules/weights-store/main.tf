data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

locals {
  contract = yamldecode(file("${path.module}/../../../helm/trireme/node-contract.yaml"))
  bucket   = "${var.name}-weights-${data.aws_caller_identity.this.account_id}-${data.aws_region.this.name}"
  arn      = "arn:${data.aws_partition.this.partition}:s3:::${local.bucket}"
}

module "key" {
  source = "../key"

  alias       = "${var.name}/weights"
  description = "Weights of ${var.name}"
}

# Never emptied by Terraform: a bucket that holds weights is not destroyed.
resource "aws_s3_bucket" "this" {
  bucket        = local.bucket
  force_destroy = false

  tags = { Name = local.bucket }
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = module.key.arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    id     = "tidy"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 3
    }
    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyOverTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [local.arn, "${local.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })

  depends_on = [aws_s3_bucket_public_access_block.this]
}

module "reader" {
  source = "../identity"

  name            = "${var.name}-engine"
  oidc_provider   = var.oidc_provider
  namespace       = local.contract.namespace
  service_account = local.contract.service_accounts.engine

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      merge(
        { Sid = "List", Effect = "Allow", Action = ["s3:ListBucket"], Resource = local.arn },
        { Condition = merge(
          { StringLike = { "s3:prefix" = [for model in sort(tolist(var.models)) : "models/${model}/*"] } },
          var.vpc_id == null ? {} : { StringEquals = { "aws:SourceVpc" = var.vpc_id } },
        ) },
      ),
      merge(
        { Sid = "Read", Effect = "Allow", Action = ["s3:GetObject"], Resource = [for model in sort(tolist(var.models)) : "${local.arn}/models/${model}/*"] },
        var.vpc_id == null ? {} : { Condition = { StringEquals = { "aws:SourceVpc" = var.vpc_id } } },
      ),
      { Sid = "Decrypt", Effect = "Allow", Action = ["kms:Decrypt"], Resource = module.key.arn },
    ]
  })
}

data "aws_s3_object" "manifest" {
  for_each = var.verify ? var.models : []

  bucket = aws_s3_bucket.this.id
  key    = "models/${each.value}/manifest.json"
}

locals {
  files = merge([for model, manifest in data.aws_s3_object.manifest : {
    for file, bytes in jsondecode(manifest.body).files : "models/${model}/${file}" => bytes
  }]...)
}

data "aws_s3_object" "file" {
  for_each = local.files

  bucket = aws_s3_bucket.this.id
  key    = each.key

  lifecycle {
    postcondition {
      condition     = self.content_length == each.value
      error_message = "${each.key} has ${self.content_length} bytes and its manifest says ${each.value}: upload it again."
    }
  }
}
