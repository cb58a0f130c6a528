# No provider: what is rendered here is the same on every cloud.
terraform {
  required_version = ">= 1.11"
}
