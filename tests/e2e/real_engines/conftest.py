"""One cluster of real vLLM engines for this folder; starting it takes minutes and 15 GB."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import Cluster, cluster

MODEL, TP2_MODEL = "gpt-oss-tiny", "gpt-oss-tiny-tp"


def real_pool(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 2048,
        "num_cpus": 0.1,
        "startup_timeout_s": 1200,
        "engine_args": {"enforce_eager": True},
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        **changes,
    }


@pytest.fixture(scope="package")
def vllm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two models: one on two replicas at TP=1, one on a replica at TP=2."""
    home: Path = tmp_path_factory.mktemp("vllm")
    models = [
        {
            "name": MODEL,
            "source": "tiny",
            "aliases": ["gpt-oss"],
            "max_model_len": 4096,
            "pools": [real_pool("main", replicas=2)],
        },
        {
            "name": TP2_MODEL,
            "source": "tiny",
            "max_model_len": 2048,
            "pools": [real_pool("pair", tensor_parallel_size=2)],
        },
    ]
    gateway = {"num_cpus": 0.1}
    with cluster(home, {"name": "vllm", "models": models, "gateway": gateway}) as running:
        yield running
