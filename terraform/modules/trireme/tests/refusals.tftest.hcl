# What is refused; tests/terraform reads the messages.
variables {
  name   = "chat"
  region = "us-east-1"
  pools  = { main = { gpu = "h100", tensor_parallel_size = 1, replicas = 1 } }
}

run "refuses_an_unknown_gpu" {
  command = plan
  variables {
    pools = { main = { gpu = "a10g", tensor_parallel_size = 1, replicas = 1 } }
  }
  expect_failures = [var.pools]
}

run "refuses_a_tp_that_does_not_hold_the_model" {
  command = plan
  variables {
    pools = { main = { gpu = "l40s", tensor_parallel_size = 1, replicas = 1 } }
  }
  expect_failures = [var.pools]
}

run "refuses_a_tp_that_splits_kv_heads" {
  command = plan
  variables {
    pools = { main = { gpu = "h100", tensor_parallel_size = 3, replicas = 1 } }
  }
  expect_failures = [var.pools]
}

run "refuses_no_pool" {
  command = plan
  variables {
    pools = {}
  }
  expect_failures = [var.pools]
}

run "refuses_a_pool_name_that_kubernetes_refuses" {
  command = plan
  variables {
    pools = { Main_Pool = { gpu = "h100", tensor_parallel_size = 1, replicas = 1 } }
  }
  expect_failures = [var.pools]
}

run "refuses_fewer_replicas_at_most_than_at_least" {
  command = plan
  variables {
    pools = { main = { gpu = "h100", tensor_parallel_size = 1, replicas = 4, max_replicas = 2 } }
  }
  expect_failures = [var.pools]
}

run "refuses_a_tier_that_does_not_exist" {
  command = plan
  variables {
    pools = { main = { gpu = "h100", tensor_parallel_size = 1, replicas = 1, tiers = ["low", "medium", "high", "extreme"] } }
  }
  expect_failures = [var.pools]
}

run "refuses_a_tier_without_a_pool" {
  command = plan
  variables {
    pools = { main = { gpu = "h100", tensor_parallel_size = 1, replicas = 1, tiers = ["low", "medium"] } }
  }
  expect_failures = [var.pools]
}

run "refuses_an_interruptible_pool_that_owns_a_tier" {
  command = plan
  variables {
    pools = { main = { gpu = "h100", tensor_parallel_size = 1, replicas = 1, interruptible = true } }
  }
  expect_failures = [var.pools]
}

run "refuses_an_unknown_model" {
  command = plan
  variables {
    model = "gpt-4"
  }
  expect_failures = [var.model]
}

run "refuses_weights_that_are_no_folder" {
  command = plan
  variables {
    weights_uri = "s3://bucket/file.safetensors"
  }
  expect_failures = [var.weights_uri]
}

run "refuses_a_database_without_tls" {
  command = plan
  variables {
    database = { host = "pg", port = 5432, name = "t", user = "t", tls = false }
  }
  expect_failures = [var.database]
}

run "refuses_annotations_for_an_unknown_account" {
  command = plan
  variables {
    service_account_annotations = { webhook = {} }
  }
  expect_failures = [var.service_account_annotations]
}

run "refuses_a_name_that_dns_refuses" {
  command = plan
  variables {
    name = "Chat_Prod"
  }
  expect_failures = [var.name]
}

run "refuses_a_url_as_redis" {
  command = plan
  variables {
    redis = { host = "redis://valkey:6379", port = 6379, tls = true }
  }
  expect_failures = [var.redis]
}
