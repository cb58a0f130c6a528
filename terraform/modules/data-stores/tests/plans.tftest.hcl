mock_provider "aws" {
  source = "../../testing/aws"
}

variables {
  name                     = "chat"
  vpc_id                   = "vpc-1"
  subnet_ids               = ["subnet-1", "subnet-2"]
  client_security_group_id = "sg-1"
}

run "each_store_has_a_standby" {
  command = plan
  assert {
    condition     = aws_db_instance.this.multi_az && aws_elasticache_replication_group.this[0].automatic_failover_enabled && aws_elasticache_replication_group.this[0].num_cache_clusters == 2
    error_message = "A zone less would stop it."
  }
}

run "a_trial_can_do_without" {
  command = plan
  variables {
    highly_available = false
  }
  assert {
    condition     = !aws_db_instance.this.multi_az && aws_elasticache_replication_group.this[0].num_cache_clusters == 1
    error_message = "Nobody asked for a standby."
  }
}

run "data_is_encrypted_at_rest_and_on_the_way" {
  command = plan
  assert {
    condition     = aws_db_instance.this.storage_encrypted && aws_elasticache_replication_group.this[0].at_rest_encryption_enabled && aws_elasticache_replication_group.this[0].transit_encryption_enabled
    error_message = "Something is not encrypted."
  }
  assert {
    condition     = contains([for parameter in aws_db_parameter_group.this.parameter : "${parameter.name}=${parameter.value}"], "rds.force_ssl=1")
    error_message = "PostgreSQL takes plain connections."
  }
}

run "the_database_is_not_destroyed_by_accident" {
  command = plan
  assert {
    condition     = aws_db_instance.this.deletion_protection && !aws_db_instance.this.skip_final_snapshot && aws_db_instance.this.backup_retention_period == 14
    error_message = "The data is not protected."
  }
}

run "protection_can_be_taken_off_for_teardown" {
  command = plan
  variables {
    deletion_protection = false
  }
  assert {
    condition     = !aws_db_instance.this.deletion_protection && aws_db_instance.this.final_snapshot_identifier == "chat-final"
    error_message = "A last snapshot stays."
  }
}

run "the_nodes_alone_may_connect" {
  command = plan
  assert {
    condition     = aws_vpc_security_group_ingress_rule.postgres.referenced_security_group_id == "sg-1" && aws_vpc_security_group_ingress_rule.valkey[0].referenced_security_group_id == "sg-1" && !aws_db_instance.this.publicly_accessible
    error_message = "Others may connect."
  }
}

run "ray_speaks_to_one_primary" {
  command = plan
  assert {
    condition     = aws_elasticache_replication_group.this[0].engine == "valkey" && aws_elasticache_replication_group.this[0].parameter_group_name == "default.valkey8"
    error_message = "Cluster mode must be off."
  }
}

run "ones_own_redis_leaves_valkey_out" {
  command = plan
  variables {
    valkey = false
  }
  assert {
    condition     = length(aws_elasticache_replication_group.this) == 0 && length(aws_secretsmanager_secret.this) == 1 && output.redis == null
    error_message = "Something of Valkey is left."
  }
}
