mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name            = "chat-engine"
  oidc_provider   = { arn = "arn:aws:iam::123456789012:oidc-provider/x", issuer = "oidc.eks.us-east-1.amazonaws.com/id/X" }
  namespace       = "trireme"
  service_account = "trireme-engine"
}

run "one_service_account_may_take_the_role" {
  command = plan
  variables {
    policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Action = ["s3:GetObject", "s3:ListBucket"], Resource = "arn:aws:s3:::b" }] })
  }
  assert {
    condition     = values(jsondecode(aws_iam_role.this.assume_role_policy).Statement[0].Condition.StringEquals) == ["sts.amazonaws.com", "system:serviceaccount:trireme:trireme-engine"]
    error_message = "The role is open to others."
  }
  assert {
    condition     = length(aws_iam_role_policy.this) == 1 && length(aws_iam_role_policy_attachment.this) == 0
    error_message = "It may do what its policy says, and nothing else."
  }
}
