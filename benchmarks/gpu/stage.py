"""One stage, in a process of its own: ``python -m benchmarks.gpu.stage`` with a ``Task`` as JSON.

What it finds goes to the stage's file as it comes. SIGTERM ends it, with all that it started.
"""

import asyncio
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from benchmarks.gpu.load import closed_loop, tier_mix
from benchmarks.gpu.machine import provenance
from benchmarks.gpu.models import make_model
from benchmarks.gpu.servers import Server, serve
from benchmarks.gpu.setups import Setup, Shape, setup_for
from benchmarks.gpu.stages import Stage, Store, stages
from cluster.hardware import Hardware
from deployments.sources import cache_dir

WARM_UP = Shape(128, 32)


class Task(msgspec.Struct, frozen=True):
    """What a stage's process needs to know."""

    model: str
    stage: str
    quick: bool
    results: str
    hardware: Hardware


class Runner:
    """Runs one stage and writes what it finds."""

    def __init__(self, setup: Setup, stage: Stage, store: Store, hardware: Hardware) -> None:
        self._setup = setup
        self._stage = stage
        self._store = store
        self._hardware = hardware
        self._source = make_model(setup, cache_dir())
        self._result = store.read(stage.name) or self._begun()

    def _begun(self) -> dict[str, Any]:
        setup = self._setup
        return {
            "finished": False,
            "model": setup.name,
            "kind": self._stage.kind,
            "side": self._stage.side,
            "settings": {
                "max_model_len": setup.max_model_len,
                "max_num_seqs": setup.max_num_seqs,
                "max_num_batched_tokens": setup.max_num_batched_tokens,
                "gpu_memory_utilization": setup.gpu_memory_utilization,
                "engine_args": dict(setup.engine_args),
            },
            "machine": provenance(self._hardware),
            "points": [],
        }

    def run(self, work: Path) -> None:
        stage, setup = self._stage, self._setup
        if stage.kind in ("closed", "mix"):
            # The mix is served under the product's own objectives.
            wide = stage.kind == "closed"
            with serve(stage.side, setup, self._source, self._hardware, work, wide=wide) as server:
                self._result["start_s"] = server.phases_s
                asyncio.run(self._load(server))
        else:
            self._result |= asyncio.run(self._look_inside())
        self._result["finished"] = True
        self._save()

    async def _look_inside(self) -> dict[str, Any]:
        # Only here: the servers' stages do without vLLM in this process.
        from benchmarks.gpu.inside import measure_exactness, measure_steps

        if self._stage.kind == "steps":
            return await measure_steps(self._setup, self._source)
        return await measure_exactness(self._setup, self._source, invariant=self._stage.invariant)

    async def _load(self, server: Server) -> None:
        stage, model = self._stage, self._setup.name
        await closed_loop(server, model, WARM_UP, 4, 2)
        if stage.kind == "mix":
            self._result["points"] = [await tier_mix(server, model, self._setup.mix)]
            return
        assert stage.shape is not None
        done = {point["concurrency"] for point in self._result["points"]}
        for point in stage.points:
            if point.concurrency not in done:
                found = await closed_loop(
                    server, model, stage.shape, point.concurrency, point.requests_a_client
                )
                self._result["points"].append(found)
                self._save()

    def _save(self) -> None:
        self._store.write(self._stage.name, self._result)


def _end(signum: int, frame: FrameType | None) -> None:
    """As an exception, so that whatever is up is taken down."""
    del frame
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(f"ended by signal {signum}")


def main() -> None:
    task = msgspec.json.decode(sys.argv[1], type=Task)
    signal.signal(signal.SIGTERM, _end)
    setup = setup_for(task.model, task.hardware)
    (stage,) = [each for each in stages(setup, quick=task.quick) if each.name == task.stage]
    store = Store(Path(task.results), setup.name)
    work = Path(tempfile.mkdtemp(prefix="gpu-"))
    try:
        Runner(setup, stage, store, task.hardware).run(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
