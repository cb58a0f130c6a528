mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  alias       = "chat/weights"
  description = "Weights of chat"
}

run "the_key_rotates_and_waits_before_it_goes" {
  command = plan
  assert {
    condition     = aws_kms_key.this.enable_key_rotation && aws_kms_key.this.deletion_window_in_days == 30
    error_message = "A key must rotate, and be kept for 30 days after it was given up."
  }
  assert {
    condition     = alltrue([for statement in jsondecode(aws_kms_key.this.policy).Statement : !strcontains(jsonencode(statement.Action), "*")])
    error_message = "Each action has its name."
  }
}
