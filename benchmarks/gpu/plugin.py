"""A plugin of vLLM for both sides: random weights that use all experts, and on CPUs one process.

vLLM's ``--load-format dummy`` draws every parameter between -0.001 and 0.001, norms and router
biases too. What reaches a router is then so small that its bias decides: all tokens go to the same
few experts, and a step reads a small share of the weights that it would read with a trained model.
Here norms are 1 and biases 0, as if the model were untrained, so that tokens choose for themselves:
biases are what all tokens have in common, the same in every layer, as vLLM draws all parameters
from one seed.

On CPUs vLLM puts the worker into a process of its own whatever one asks for, and Trireme undoes
that (docs/decisions.md, "Processes of an engine"); bare vLLM gets the same here, as it has anyway
on a GPU. Else the two engines would differ by more than what is between client and engine.
"""

import os
from pathlib import Path
from typing import Any

_ENTRY = "[vllm.general_plugins]\ntrireme_gpu = benchmarks.gpu.plugin:register\n"

_MARK = "trireme_gpu"


def install(folder: Path) -> dict[str, str]:
    """What has to be in the environment of vLLM's processes for it to find the plugin.

    ``folder`` gets the few lines that an installed package would have in site-packages.
    """
    info = folder / "trireme_gpu-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trireme-gpu\nVersion: 1\n")
    (info / "entry_points.txt").write_text(_ENTRY)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def register() -> None:
    """Called by vLLM in each of its processes, and more than once in some."""
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader
    from vllm.platforms import current_platform

    if getattr(DummyModelLoader, _MARK, False):
        return
    setattr(DummyModelLoader, _MARK, True)
    draw = DummyModelLoader.load_weights

    def draw_evenly(loader: Any, model: Any, model_config: Any) -> None:
        draw(loader, model, model_config)
        use_all_experts(model)

    DummyModelLoader.load_weights = draw_evenly
    if current_platform.is_cpu():
        _keep_one_process(type(current_platform))


def use_all_experts(model: Any) -> None:
    """Make every norm of a gpt-oss 1 and every bias 0."""
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.fill_(1.0)
        elif name.endswith("bias"):
            parameter.data.zero_()


def _keep_one_process(platform: Any) -> None:
    check = platform.check_and_update_config

    def check_and_keep(vllm_config: Any) -> None:
        parallel = vllm_config.parallel_config
        asked = parallel.distributed_executor_backend
        check(vllm_config)
        if asked == "uni":
            parallel.distributed_executor_backend = asked

    platform.check_and_update_config = staticmethod(check_and_keep)
