variables {
  name   = "chat"
  region = "us-east-1"
  cloud  = "aws"
  pools = {
    main = { gpu = "h100", tensor_parallel_size = 2, replicas = 4, max_replicas = 8 }
    peak = { gpu = "h200", tensor_parallel_size = 1, replicas = 8, interruptible = true, tiers = [] }
  }
}

run "a_pool_carries_what_its_gpus_can_hold" {
  command = plan
  assert {
    condition = output.values.config.models[0].pools[0] == {
      name     = "main", replicas = 4, device = "gpu", gpu_type = "H100", tensor_parallel_size = 2
      tiers    = tolist(["low", "medium", "high"])
      lends_to = tolist(["low", "medium", "high"])

      max_num_seqs = 256, max_num_batched_tokens = 8192, gpu_memory_utilization = 0.9
    }
    error_message = "The pool of trireme.yaml is not what was asked for."
  }
  assert {
    condition     = output.values.config.models[0].source == "openai/gpt-oss-120b"
    error_message = "The model's source is wrong."
  }
}

run "an_80_gb_gpu_alone_gets_the_tight_settings" {
  command = plan
  variables {
    pools = { main = { gpu = "h100", tensor_parallel_size = 1, replicas = 1 } }
  }
  assert {
    condition     = output.values.config.models[0].pools[0].max_num_batched_tokens == 1024 && output.values.config.models[0].pools[0].gpu_memory_utilization == 0.95
    error_message = "gpt-oss-120b needs the tight settings on one H100."
  }
}

run "engine_pods_select_their_pool_and_tolerate_its_taints" {
  command = plan
  assert {
    condition = output.values.pools.main.nodeSelector == {
      "trireme.dev/role" = "engine", "trireme.dev/pool" = "main", "trireme.dev/gpu" = "H100", "trireme.dev/capacity" = "steady"
    }
    error_message = "The node selector is wrong."
  }
  assert {
    condition     = [for toleration in output.values.pools.main.tolerations : toleration.key] == ["nvidia.com/gpu"]
    error_message = "A steady pool tolerates the GPU taint alone."
  }
}

run "an_interruptible_pool_goes_down_to_none_and_tolerates_that" {
  command = plan
  assert {
    condition     = output.values.pools.peak.minReplicas == 0 && output.values.pools.peak.interruptible
    error_message = "An interruptible pool may lose all its nodes."
  }
  assert {
    condition     = [for toleration in output.values.pools.peak.tolerations : toleration.key] == ["nvidia.com/gpu", "trireme.dev/interruptible"]
    error_message = "The pool must tolerate interruptible nodes."
  }
}

run "there_is_a_gateway_for_two_gpus_and_two_at_least" {
  command = plan
  assert {
    condition     = output.values.config.gateway.replicas == 8
    error_message = "16 GPUs want 8 gateways."
  }
}

run "without_stores_the_chart_brings_its_own" {
  command = plan
  assert {
    condition     = !contains(keys(output.values), "redis") && !contains(keys(output.values), "database")
    error_message = "No store was given."
  }
}

run "stores_come_with_the_secret_that_the_chart_expects" {
  command = plan
  variables {
    redis    = { host = "valkey.internal", port = 6379, tls = true, secret_arn = "arn:aws:secretsmanager:us-east-1:1:secret:v" }
    database = { host = "pg.internal", port = 5432, name = "trireme", user = "trireme", tls = true }
  }
  assert {
    condition     = output.values.redis.existingSecret == "trireme-redis" && output.values.redis.secretKey == "password" && output.values.redis.tls
    error_message = "Redis is not as given."
  }
  assert {
    condition     = output.values.database.existingSecret == "trireme-database" && output.values.database.secretKey == "url"
    error_message = "The database is not as given."
  }
}

run "roles_are_bound_to_the_service_accounts_of_the_contract" {
  command = plan
  variables {
    service_account_annotations = { engine = { "eks.amazonaws.com/role-arn" = "arn:aws:iam::1:role/engine" } }
  }
  assert {
    condition = output.values.serviceAccounts.engine == {
      name = "trireme-engine", annotations = tomap({ "eks.amazonaws.com/role-arn" = "arn:aws:iam::1:role/engine" })
    }
    error_message = "The engine's service account is not bound to its role."
  }
  assert {
    condition     = length(output.values.serviceAccounts.gateway.annotations) == 0
    error_message = "The gateway was given no role."
  }
}

run "yaml_says_the_same_as_the_object" {
  command = plan
  assert {
    condition     = yamldecode(output.helm_values).pools.main.maxReplicas == 8
    error_message = "The YAML differs."
  }
}
