mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name          = "chat"
  vpc_id        = "vpc-1"
  oidc_provider = { arn = "arn:aws:iam::123456789012:oidc-provider/x", issuer = "oidc.eks.us-east-1.amazonaws.com/id/X" }
}

run "the_bucket_is_private_encrypted_and_versioned" {
  command = plan
  assert {
    condition     = aws_s3_bucket_public_access_block.this.block_public_policy && aws_s3_bucket_public_access_block.this.restrict_public_buckets
    error_message = "The bucket may become public."
  }
  assert {
    condition     = aws_s3_bucket_versioning.this.versioning_configuration[0].status == "Enabled" && one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default[0].sse_algorithm == "aws:kms"
    error_message = "Not versioned or not encrypted."
  }
}

run "weights_are_never_destroyed_with_the_bucket" {
  command = plan
  assert {
    condition     = !aws_s3_bucket.this.force_destroy
    error_message = "The bucket would be emptied."
  }
}

run "plain_http_is_refused" {
  command = plan
  assert {
    condition     = jsondecode(aws_s3_bucket_policy.this.policy).Statement[0].Effect == "Deny" && jsondecode(aws_s3_bucket_policy.this.policy).Statement[0].Condition.Bool["aws:SecureTransport"] == "false"
    error_message = "Plain HTTP is allowed."
  }
}

run "names_do_not_collide_between_accounts_and_regions" {
  command = plan
  assert {
    condition     = aws_s3_bucket.this.bucket == "chat-weights-123456789012-us-east-1"
    error_message = "Bucket names are global."
  }
}

run "each_model_has_its_folder" {
  command = plan
  variables {
    models = ["gpt-oss-120b", "gpt-oss-20b"]
  }
  assert {
    condition     = length(output.uris) == 2
    error_message = "A folder each."
  }
}

run "an_empty_bucket_is_not_verified" {
  command = plan
  assert {
    condition     = output.verified_files == 0 && length(data.aws_s3_object.manifest) == 0
    error_message = "There is nothing to verify yet."
  }
}

run "overwritten_weights_can_be_restored" {
  command = plan
  variables {
    noncurrent_days = 60
  }
  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.this.rule[0].noncurrent_version_expiration[0].noncurrent_days == 60
    error_message = "Old versions go too early."
  }
}
