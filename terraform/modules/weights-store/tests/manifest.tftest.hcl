# The bucket is made; then its files are compared with their manifest.
mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name          = "chat"
  vpc_id        = "vpc-1"
  oidc_provider = { arn = "arn:aws:iam::123456789012:oidc-provider/x", issuer = "oidc.eks.us-east-1.amazonaws.com/id/X" }
}

run "the_empty_bucket_is_made" {
  command = apply
  assert {
    condition     = output.verified_files == 0
    error_message = "There is nothing to compare yet."
  }
}

run "a_bucket_that_is_as_its_manifest_says_is_verified" {
  command = plan
  variables {
    verify = true
  }
  override_data {
    target = data.aws_s3_object.manifest
    values = { body = "{\"files\":{\"model-1.safetensors\":4096,\"model-2.safetensors\":4096}}" }
  }
  override_data {
    target = data.aws_s3_object.file
    values = { content_length = 4096 }
  }
  assert {
    condition     = output.verified_files == 2
    error_message = "Every file of the manifest is compared."
  }
}

run "refuses_a_file_that_is_cut_short" {
  command = plan
  variables {
    verify = true
  }
  override_data {
    target = data.aws_s3_object.manifest
    values = { body = "{\"files\":{\"model-1.safetensors\":4096}}" }
  }
  override_data {
    target = data.aws_s3_object.file
    values = { content_length = 9 }
  }
  expect_failures = [data.aws_s3_object.file]
}
