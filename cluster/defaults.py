"""The configuration that a machine gets when nobody wrote one, and the check of a written one."""

import math
import re
from collections.abc import Iterator

from cluster.config import EngineKind, GatewayConfig, ModelConfig, PoolConfig, TriremeConfig
from cluster.errors import Fault
from cluster.facts import (
    GIB,
    TENSOR_PARALLEL_SIZES,
    TINY,
    ModelFacts,
    choose_model,
    facts_for,
    gpu_bytes_of,
    sizing_for,
    weights_fit,
)
from cluster.hardware import Hardware

TINY_NAME = "gpt-oss-tiny"
"""Served name of the test model: never that of the real one, whose words nobody should expect."""


def default_config(
    hardware: Hardware,
    *,
    engine: EngineKind | None = None,
    replicas: int | None = None,
    port: int | None = None,
) -> TriremeConfig:
    """A configuration that runs on `hardware` as it is.

    With GPUs: gpt-oss-120b, or 20b where that does not fit, on as many replicas as the GPUs hold.
    Without: two replicas of the tiny model on CPUs. `engine="simulated"` needs neither. `replicas`
    and `port` replace what would be chosen.
    """
    gpus = len(hardware.gpus)
    facts = choose_model(hardware.smallest_gpu_bytes, gpus)
    if engine == "simulated":
        model = _simulated(replicas or 2)
        gateways = 1
    elif facts is None:
        model = _tiny(replicas or (min(2, gpus) or 2))
        gateways = 1
    else:
        model = _gpt_oss(facts, hardware, replicas)
        # A gateway renders some 7,000 tokens a second, an H200 writes some 3,000.
        gateways = max(1, math.ceil(gpus / 2))
    share = _cpu_share(hardware.cpus, model.pools[0].replicas + gateways)
    pool = model.pools[0].model_copy(update={"num_cpus": share})
    gateway: dict[str, int | float] = {"replicas": gateways, "num_cpus": share}
    if port is not None:
        gateway["port"] = port
    return TriremeConfig(
        models=[model.model_copy(update={"pools": [pool]})],
        gateway=GatewayConfig.model_validate(gateway),
    )


def _gpt_oss(facts: ModelFacts, hardware: Hardware, replicas: int | None) -> ModelConfig:
    gpus = len(hardware.gpus)
    sizing = sizing_for(facts, hardware.smallest_gpu_bytes, gpus)
    assert sizing is not None  # choose_model found the model by this very sizing
    pool = PoolConfig.model_validate(
        {
            "name": "main",
            "replicas": replicas or gpus // sizing.tensor_parallel_size,
            "device": "gpu",
            "tensor_parallel_size": sizing.tensor_parallel_size,
            "max_num_seqs": sizing.max_num_seqs,
            "max_num_batched_tokens": sizing.max_num_batched_tokens,
            "gpu_memory_utilization": sizing.gpu_memory_utilization,
        }
    )
    return ModelConfig(name=facts.name, source=facts.source, pools=[pool])


def _tiny(replicas: int) -> ModelConfig:
    pool = PoolConfig(
        name="main",
        replicas=replicas,
        max_num_seqs=16,
        max_num_batched_tokens=2048,
        startup_timeout_s=300.0,
        # Compiling takes longer than this model ever saves; and on CPUs an engine would claim most
        # of
        # the machine's memory for a KV cache of which it needs 256 bytes a token.
        engine_args={"enforce_eager": True},
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
    )
    return ModelConfig(name=TINY_NAME, source=TINY.source, max_model_len=8192, pools=[pool])


def _simulated(replicas: int) -> ModelConfig:
    pool = PoolConfig(name="main", engine="simulated", replicas=replicas, device="cpu")
    return ModelConfig(name=TINY_NAME, source=TINY.source, pools=[pool])


def _cpu_share(cpus: int, processes: int) -> float:
    # Ray's CPUs are only a count for placement: processes share a small machine, so that all start.
    share = min(1.0, cpus / processes)
    return math.floor(share * 100) / 100 or 0.01


def check_against(config: TriremeConfig, hardware: Hardware) -> list[Fault]:
    """What of `config` cannot run: memory of the GPUs, and how many GPUs and CPUs there are.

    Memory is checked by the pool's `gpu_type` where it names one, so a configuration for other
    machines can be checked on a laptop. Counts are checked only when the cluster is started here.
    """
    faults: list[Fault] = []
    here = config.ray.address is None
    free = config.ray.num_gpus if config.ray.num_gpus is not None else len(hardware.gpus)
    for i, model in enumerate(config.models):
        for j, pool in enumerate(model.pools):
            if pool.engine == "simulated" or pool.device == "cpu":
                continue
            path = f"models[{i}].pools[{j}]"
            found = list(_kind_faults(path, model, pool, hardware, free)) if here else []
            if not found:
                found += _memory_faults(path, model, pool, hardware)
            if here and not found and hardware.gpus:
                found += _count_faults(path, pool, free)
                free = max(0, free - pool.replicas * pool.tensor_parallel_size)
            faults += found
    if here:
        faults += _cpu_faults(config, config.ray.num_cpus or hardware.cpus)
    if config.access.mode == "keys":
        faults += unpinned(config)
    return faults


def unpinned(config: TriremeConfig) -> list[Fault]:
    """Models that whoever owns their repository may change between two starts, or between two
    machines. A fault where callers have keys, which is production; elsewhere worth a warning."""
    return [
        Fault(
            f"models[{i}].revision",
            f"what {model.source} holds may change at any time"
            if model.revision is None
            else f"'{model.revision}' is no commit: what it means may change at any time",
            "write the commit (40 hexadecimal characters) of the version that you have tried, or "
            "keep the model in a folder and write its path as source",
        )
        for i, model in enumerate(config.models)
        if model.is_fetched() and re.fullmatch("[0-9a-f]{40}", model.revision or "") is None
    ]


def _kind_faults(
    path: str, model: ModelConfig, pool: PoolConfig, hardware: Hardware, free: int
) -> Iterator[Fault]:
    if not hardware.gpus:
        facts = facts_for(model.source)
        if pool.device == "gpu":
            yield Fault(f"{path}.device", "this machine has no GPU", "write cpu or auto")
        elif facts is not None and facts is not TINY:
            yield Fault(
                f"{path}.device",
                f"this machine has no GPU, which {facts.name} needs",
                f"set {path.split('.')[0]}.source to tiny, or the pool's engine to simulated",
            )
    elif pool.gpu_type and not any(_is_type(gpu.name, pool.gpu_type) for gpu in hardware.gpus):
        names = ", ".join(sorted({gpu.name for gpu in hardware.gpus}))
        yield Fault(
            f"{path}.gpu_type", f"this machine has {names}", "name that type, or remove gpu_type"
        )


def _is_type(gpu_name: str, gpu_type: str) -> bool:
    # Ray's types are a word of the driver's name, sometimes with the memory: A100-80G.
    return gpu_type.upper().split("-")[0] in gpu_name.upper().replace("-", " ").split()


def _memory_faults(
    path: str, model: ModelConfig, pool: PoolConfig, hardware: Hardware
) -> Iterator[Fault]:
    facts = facts_for(model.source)
    named = gpu_bytes_of(pool.gpu_type) if pool.gpu_type else None
    gpu_bytes = named or hardware.smallest_gpu_bytes
    if facts is None or facts is TINY or not gpu_bytes:
        return  # the reserve is that of the real models; the tiny one fits any GPU

    def fits(tp: int, utilization: float, batched: int) -> bool:
        return weights_fit(
            facts,
            gpu_bytes,
            tp,
            gpu_memory_utilization=utilization,
            max_num_batched_tokens=batched,
            context_tokens=model.max_model_len,
            dtype_bytes=1
            if str(pool.engine_args.get("kv_cache_dtype", "")).startswith("fp8")
            else 2,
        )

    tp = pool.tensor_parallel_size
    if fits(tp, pool.gpu_memory_utilization, pool.max_num_batched_tokens):
        return
    problem = (
        f"{facts.name} with {model.max_model_len} tokens of context does not fit {tp} GPU"
        f"{'s' if tp > 1 else ''} of {gpu_bytes / GIB:.0f} GiB"
    )
    limit = len(hardware.gpus) if hardware.gpus and not named else max(TENSOR_PARALLEL_SIZES)
    larger = [
        size
        for size in TENSOR_PARALLEL_SIZES
        if tp < size <= limit
        and facts.kv_heads % size == 0
        and fits(size, pool.gpu_memory_utilization, pool.max_num_batched_tokens)
    ]
    remedies = []
    if fits(tp, 0.95, 1024):
        remedies.append("set gpu_memory_utilization to 0.95 and max_num_batched_tokens to 1024")
    if larger:
        remedies.append(f"write {larger[0]}")
    if not remedies:
        smaller = choose_model(gpu_bytes, limit)
        remedies.append(
            f"serve {smaller.source}" if smaller not in (None, facts) else "lower max_model_len"
        )
    yield Fault(f"{path}.tensor_parallel_size", problem, ", or ".join(remedies))


def _count_faults(path: str, pool: PoolConfig, free: int) -> Iterator[Fault]:
    tp = pool.tensor_parallel_size
    if tp > free:
        fitting = [size for size in TENSOR_PARALLEL_SIZES if size <= free]
        yield Fault(
            f"{path}.tensor_parallel_size",
            f"a replica wants {tp} GPUs and {free} are left",
            f"write {fitting[-1]}" if fitting else "remove the pool, or set its device to cpu",
        )
    elif pool.replicas * tp > free:
        yield Fault(
            f"{path}.replicas",
            f"{pool.replicas} replicas of {tp} GPUs want {pool.replicas * tp} and {free} are left",
            f"write {free // tp}" + (" or less" if free // tp > 1 else ""),
        )


def _cpu_faults(config: TriremeConfig, cpus: int) -> Iterator[Fault]:
    wanted = config.gateway.replicas * config.gateway.num_cpus
    wanted += sum(pool.replicas * pool.num_cpus for _, pool in config.pools())
    processes = config.gateway.replicas + sum(pool.replicas for _, pool in config.pools())
    if wanted > cpus + 1e-6:
        yield Fault(
            "gateway.num_cpus",
            f"gateways and replicas together ask Ray for {wanted:g} CPUs and {cpus} are here",
            f"write {_cpu_share(cpus, processes):g} here and as num_cpus of every pool",
        )
