"""Which step times the replicas of a pool are taken to have."""

from cluster.config import PoolConfig, SimulatedEngineConfig, StepMilliseconds
from cluster.steptime import StepModel, step_model

REFERENCE_GPU = "H200"


def own_steps(own: StepMilliseconds) -> StepModel:
    """Step times as a configuration spells them out."""
    return StepModel(
        base_s=own.base / 1e3,
        experts_s=own.experts / 1e3,
        seq_s=own.request / 1e3,
        kv_token_s=own.context_1k / 1e6,
        prefill_token_s=own.prompt_1k / 1e6,
    )


def step_times(config: SimulatedEngineConfig, tensor_parallel_size: int) -> StepModel:
    """The step times that ``config`` asks for: its own, or those measured on its GPU."""
    if config.step_ms is not None:
        return own_steps(config.step_ms)
    steps = step_model(config.gpu, tensor_parallel_size)
    if steps is None:
        # PoolConfig refuses such settings with a remedy.
        raise ValueError(f"no step times of {config.gpu} at TP {tensor_parallel_size}")
    return steps


def step_model_of(pool: PoolConfig) -> StepModel:
    """What router and autoscaler expect a step of the pool's replicas to take.

    Where the GPU is unknown or was not measured (a CPU, say), the shape of an H200's: the measured
    pace corrects its scale.
    """
    tp = pool.tensor_parallel_size
    if pool.engine == "simulated":
        return step_times(pool.simulated, tp)
    found = step_model(pool.gpu_type or REFERENCE_GPU, tp) or step_model(REFERENCE_GPU, tp)
    assert found is not None  # the reference was measured at every size
    return found
