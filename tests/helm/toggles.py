"""Renders beside the presets: each switch the other way, and what excludes each other."""

from typing import Any

ADMITTED = {
    "gateway": {"replicas": 2, "insecure_listen_without_auth": True},
    "access": {"mode": "none"},
}
POOL = {"name": "main", "device": "gpu", "tensor_parallel_size": 2, "replicas": 2}


def _config(**more: Any) -> dict[str, Any]:
    models = [{"name": "gpt-oss-120b", "source": "openai/gpt-oss-120b", "pools": [POOL]}]
    return {"config": {"models": models, **more}}


TWO_MODELS = {
    "config": {
        "models": [
            {"name": "big", "source": "openai/gpt-oss-120b", "pools": [{**POOL, "name": "big"}]},
            {"name": "small", "source": "openai/gpt-oss-20b", "pools": [{**POOL, "name": "small"}]},
        ]
    },
    "weights": {"uri": "gs://bucket/models/"},
}
REDIS = {"host": "redis.example.internal", "tls": True, "existingSecret": "trireme-redis"}
DATABASE = {
    "host": "db.example.internal",
    "name": "trireme",
    "user": "trireme",
    "existingSecret": "trireme-database",
}

TOGGLES: dict[str, dict[str, Any]] = {
    "no fault tolerance": {"faultTolerance": {"enabled": False}},
    "external redis": {"redis": REDIS},
    "fetched secrets": {
        "redis": {**REDIS, "secretArn": "arn:redis"},
        "database": {**DATABASE, "secretArn": "arn:database"},
        "externalSecrets": {"store": "aws"},
    },
    "keys of your own": {
        **_config(access={"mode": "keys", "admin": {"port": 8091}}),
        "access": {
            "existingSecret": "trireme-access",
            "adminSecret": "trireme-admins",
            "testSecret": "trireme-test",
        },
    },
    "a route with keys": {
        "httpRoute": {
            "enabled": True,
            "gateway": {"name": "public"},
            "fromNamespace": "gateways",
        },
    },
    "tls and volumes": {
        **_config(content_log={"enabled": True}, usage={"flush_s": 1}, channel={"heartbeat_s": 2}),
        "gateway": {
            "tlsSecret": "llm-tls",
            "usageQueuePath": "/mnt/usage",
            "contentLogClaim": "content-log",
        },
        "channel": {"tlsSecret": "channel-tls"},
        "access": {"testSecret": "trireme-test"},
    },
    "no token": {"rayToken": {"enabled": False}},
    "no network policies": {"networkPolicy": {"enabled": False}},
    "no priorities, budgets, checks": {
        "priorityClasses": {"enabled": False},
        "disruptionBudgets": {"enabled": False},
        "checks": {"config": False},
    },
    "ingress": {
        **_config(**ADMITTED),
        "ingress": {
            "enabled": True,
            "host": "llm.example.com",
            "tlsSecret": "llm",
            "fromNamespace": "ingress-nginx",
        },
    },
    "route": {
        **_config(**ADMITTED),
        "httpRoute": {
            "enabled": True,
            "gateway": {"name": "public"},
            "fromNamespace": "gateways",
        },
    },
    "load balancer": {
        **_config(**ADMITTED),
        "service": {"type": "LoadBalancer", "port": 443, "annotations": {"a": "b"}},
    },
    "claim": {"weights": {"existingClaim": "models"}},
    "image": {"weights": {"image": "models:1"}},
    "s3 with host cache": {
        "weights": {
            "uri": "s3://bucket/m/",
            "hostPath": "/mnt/weights",
            "compileCachePath": "/mnt/compiled",
        }
    },
    "gated model": {"weights": {"huggingFace": {"existingSecret": "hf"}}},
    "two models": TWO_MODELS,
    "metrics agent": {
        "monitoring": {"remoteWriteUrl": "https://metrics.example.com/write"},
        "infrastructure": {"cloud": "aws", "region": "eu-central-1"},
    },
    "operator metrics": {
        "monitoring": {
            "podMonitor": {"enabled": True},
            "rules": {"enabled": True},
            "dashboards": {"enabled": True},
        }
    },
    "incremental": {
        "upgrade": {
            "strategy": "NewClusterWithIncrementalUpgrade",
            "incremental": {"gatewayClassName": "envoy"},
        }
    },
    "elastic pool": {"pools": {"main": {"minReplicas": 0, "maxReplicas": 4, "gpus": 1}}},
    "external scaler": _config(
        autoscaling={"enabled": True, "actuator": "external"},
        models=[
            {
                "name": "m",
                "source": "tiny",
                "pools": [
                    {
                        **POOL,
                        "device": "cpu",
                        "tensor_parallel_size": 1,
                        "scaling": {"min_replicas": 1, "max_replicas": 3},
                    }
                ],
            }
        ],
    ),
    "serve's own proxy": _config(gateway={"replicas": 2, "haproxy": False, "max_stream_s": 600}),
    "traced": _config(telemetry={"tracing": {"endpoint": "http://collector.obs:4318/v1/traces"}}),
    "simulated": {
        "config": {
            "models": [
                {
                    "name": "m",
                    "source": "tiny",
                    "pools": [{"name": "main", "engine": "simulated", "device": "cpu"}],
                }
            ]
        }
    },
    "digest and registry": {
        "imageRegistry": "registry.example.com/team",
        "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": ["pull"]},
    },
}
