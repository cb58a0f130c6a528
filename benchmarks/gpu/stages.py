"""What is run, in pieces of at most ten minutes, and where their results lie.

Each stage has a file of JSON of its own in the results' folder. It is written anew after each point
of a stage, so that a stage that was cut short goes on where it stood; one that is finished is not
run again.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu.servers import SIDES, Side
from benchmarks.gpu.setups import Setup, Shape
from benchmarks.stepfit import REQUESTS_A_CLIENT
from cluster.facts import GPT_OSS_20B, GPT_OSS_120B
from cluster.steptime import StepModel, step_model

LIMIT_S = 600.0
"""A stage that takes longer is ended; what it has measured stays."""

LOADED_S = 380.0
"""How long a stage's closed loops may be expected to take; the rest is for the engine's start."""

Kind = Literal["closed", "mix", "steps", "exact"]


@dataclass(frozen=True)
class Point:
    """A closed loop of a stage."""

    concurrency: int
    requests_a_client: int
    expected_s: float


@dataclass(frozen=True)
class Stage:
    """``invariant``: with vLLM's batch-invariant kernels."""

    kind: Kind
    name: str
    side: Side = "trireme"
    shape: Shape | None = None
    points: tuple[Point, ...] = ()
    invariant: bool = False


def stages(setup: Setup, *, quick: bool) -> list[Stage]:
    """All stages, the two sides of a thing next to each other."""
    found = [Stage("steps", "steps")]
    for shape in setup.shapes[:1] if quick else setup.shapes:
        for group in grouped(points(setup, shape, quick=quick)):
            for side in SIDES:
                first, last = group[0].concurrency, group[-1].concurrency
                name = f"{side}-{shape.name}-c{first}-{last}"
                found.append(Stage("closed", name, side, shape, tuple(group)))
    if not quick:
        found += [Stage("mix", f"{side}-mix", side) for side in SIDES]
    found += [Stage("exact", "exact"), Stage("exact", "exact-invariant", invariant=True)]
    return found


def points(setup: Setup, shape: Shape, *, quick: bool) -> list[Point]:
    """The closed loops of a shape, each with as many requests as take ``setup.point_s``: between
    one a client and ``REQUESTS_A_CLIENT``."""
    steps = expected_steps(setup)
    found = []
    for concurrency in setup.concurrencies:
        if quick and concurrency not in (1, 16):
            continue
        wave_s = expected_wave_s(steps, shape, concurrency)
        budget_s = 8.0 if quick else setup.point_s
        requests = max(1, min(REQUESTS_A_CLIENT, int(budget_s / wave_s)))
        found.append(Point(concurrency, requests, requests * wave_s))
    return found


def expected_steps(setup: Setup) -> StepModel:
    """For how long a stage will take, not for what it finds: gpt-oss-120b on one H200, or the tiny
    model on two cores (a step of 4.3 ms with one request and of 22 ms with 16 was measured)."""
    if setup.facts in (GPT_OSS_120B, GPT_OSS_20B):
        known = step_model("H200", 1)
        assert known is not None
        return known
    return StepModel(base_s=0.003, seq_s=0.0012, prefill_token_s=2e-5)


def expected_wave_s(steps: StepModel, shape: Shape, concurrency: int) -> float:
    """How long one request of each client takes, all of them together."""
    decode_s = shape.osl * steps.step_s(concurrency, concurrency * (shape.isl + shape.osl / 2))
    return 0.9 * (decode_s + concurrency * steps.prefill_token_s * shape.isl)


def grouped(found: Sequence[Point]) -> Iterator[list[Point]]:
    """Points in stages, each of which is expected to end within ``LOADED_S``."""
    group: list[Point] = []
    for point in found:
        if group and sum(each.expected_s for each in group) + point.expected_s > LOADED_S:
            yield group
            group = []
        group.append(point)
    if group:
        yield group


# ------------------------------------------------------------------------ results


class BadResults(ValueError):
    """A file of results that cannot be read; ``str()`` is one line."""


@dataclass(frozen=True)
class Store:
    """The results of one setup in ``folder``."""

    folder: Path
    setup: str

    def path(self, stage: str) -> Path:
        return self.folder / f"{self.setup}.{stage}.json"

    def read(self, stage: str) -> dict[str, Any]:
        """What is known of a stage so far; empty if nothing is. Raises ``BadResults``."""
        path = self.path(stage)
        if not path.exists():
            return {}
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise BadResults(f"{path} is no JSON ({error}); remove it") from error
        if not isinstance(found, dict) or found.get("stage") != stage:
            raise BadResults(f"{path} is no result of stage {stage}; remove it")
        return found

    def write(self, stage: str, result: dict[str, Any]) -> None:
        """At once or not at all, so that a stage that is killed leaves what it had."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(stage)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"stage": stage, **result}, indent=1) + "\n")
        os.replace(new, path)

    def all(self) -> list[dict[str, Any]]:
        """Every stage's result that is there. Raises ``BadResults``."""
        names = sorted(self.folder.glob(f"{self.setup}.*.json"))
        return [self.read(path.name.removeprefix(f"{self.setup}.")[:-5]) for path in names]

    def finished(self, stage: str) -> bool:
        return bool(self.read(stage).get("finished"))
