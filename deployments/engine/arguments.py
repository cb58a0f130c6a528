"""From the configuration to vLLM's own arguments, for engines and for the gateways' front-ends."""

from typing import Any

from cluster.config import TINY_SOURCE, GatewayConfig, ModelConfig, PoolConfig

TINY_ENGINE_ARGS: dict[str, Any] = {
    "logits_processors": ["deployments.tiny_model.processor:HarmonyScript"],
}
"""What makes the tiny model's random weights speak (``deployments.tiny_model`` says more)."""

RESUME_ARGS: dict[str, Any] = {
    "scheduler_cls": "deployments.compat.vllm_resume.make_scheduler",
    "worker_extension_cls": "deployments.compat.vllm_resume_worker.ResumesAnswers",
}
"""What lets an engine go on with an answer that another began (``deployments.compat.vllm_resume``).
One half without the other would not do: a pool that sets either of them gets neither."""

SAFE_LOADING: dict[str, Any] = {"load_format": "safetensors"}
"""vLLM's own choice would fall back to formats that can hold code."""

CPU_ENV = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
"""Several engines share the cores of one machine: vLLM would pin each of them to the same ones, and
spinning OpenMP threads of two TP ranks make a token take a hundred times longer."""

PARSERS = ["--tool-call-parser", "openai", "--enable-auto-tool-choice"]


def engine_args(model: ModelConfig, pool: PoolConfig) -> dict[str, Any]:
    """Arguments of the pool's engines, the owner of each being a setting of ``trireme.yaml``."""
    owned = {
        "max_model_len": model.max_model_len,
        "tensor_parallel_size": pool.tensor_parallel_size,
        "max_num_seqs": pool.max_num_seqs,
        "max_num_batched_tokens": pool.max_num_batched_tokens,
        "gpu_memory_utilization": pool.gpu_memory_utilization,
        "scheduling_policy": "priority",
        # Named, as vLLM would take "ray" inside of an actor.
        "distributed_executor_backend": "uni" if pool.tensor_parallel_size == 1 else "mp",
        "trust_remote_code": False,
    }
    if model.revision is not None:
        owned["revision"] = model.revision
    tiny = TINY_ENGINE_ARGS if model.source == TINY_SOURCE else {}
    resume = {} if RESUME_ARGS.keys() & pool.engine_args.keys() else RESUME_ARGS
    return {**SAFE_LOADING, **tiny, **resume, **pool.engine_args, **owned}


def front_end_args(model: ModelConfig, gateway: GatewayConfig) -> dict[str, Any]:
    """Arguments of vLLM's front-end for ``model`` in a gateway. It never loads the weights.

    ``max_num_seqs`` and the token budget are set only so that vLLM does not guess them from the
    GPUs of the machine that the gateway happens to be on.
    """
    args: dict[str, Any] = {
        "served_model_name": model.name,
        "max_model_len": model.max_model_len,
        "max_num_seqs": max(pool.max_num_seqs for pool in model.pools),
        "max_num_batched_tokens": max(pool.max_num_batched_tokens for pool in model.pools),
        "scheduling_policy": "priority",
        "stream_interval": gateway.stream_interval,
        "enforce_eager": True,
        "trust_remote_code": False,
        "enable_prompt_tokens_details": True,
    }
    if model.revision is not None:
        args["revision"] = model.revision
    return args
