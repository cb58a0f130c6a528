data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

locals {
  account = data.aws_caller_identity.this.account_id
  root    = "arn:${data.aws_partition.this.partition}:iam::${local.account}:root"

  # Named one by one: the account's IAM policies decide who of it may do these, and nobody may do others.
  administration = [for action in [
    "CancelKeyDeletion", "CreateAlias", "CreateGrant", "DeleteAlias", "DescribeKey", "DisableKey", "DisableKeyRotation", "EnableKey",
    "EnableKeyRotation", "GetKeyPolicy", "GetKeyRotationStatus", "ListGrants", "ListKeyPolicies", "ListKeyRotations",
    "ListResourceTags", "PutKeyPolicy", "RevokeGrant", "RotateKeyOnDemand", "ScheduleKeyDeletion", "TagResource", "UntagResource",
    "UpdateAlias", "UpdateKeyDescription",
  ] : "kms:${action}"]
  use = [for action in [
    "Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo",
  ] : "kms:${action}"]

  account_statement = {
    Sid       = "AccountThroughIam"
    Effect    = "Allow"
    Principal = { AWS = local.root }
    Action    = sort(distinct(concat(local.administration, local.use)))
    Resource  = "*" # in a key's policy: this key
  }
  logs_statement = {
    Sid       = "LogGroups"
    Effect    = "Allow"
    Principal = { Service = "logs.${data.aws_region.this.name}.amazonaws.com" }
    Action    = local.use
    Resource  = "*"
    Condition = {
      ArnLike = {
        "kms:EncryptionContext:aws:logs:arn" = "arn:${data.aws_partition.this.partition}:logs:${data.aws_region.this.name}:${local.account}:log-group:*"
      }
    }
  }
  service_statements = [for service in sort(tolist(var.services)) : {
    Sid       = join("", [for word in split(".", service) : title(replace(word, "-", ""))])
    Effect    = "Allow"
    Principal = { Service = service }
    Action    = local.use
    Resource  = "*"
    Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
  }]
}

resource "aws_kms_key" "this" {
  description             = var.description
  enable_key_rotation     = true
  deletion_window_in_days = 30

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat([local.account_statement], var.log_groups ? [local.logs_statement] : [], local.service_statements)
  })
}

resource "aws_kms_alias" "this" {
  name          = "alias/${var.alias}"
  target_key_id = aws_kms_key.this.key_id
}
