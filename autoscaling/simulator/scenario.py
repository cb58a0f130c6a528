"""A scenario as types: the cluster, its clients, what they are promised, and what goes wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autoscaling.simulator.workloads.settings import (
    Amount,
    Positive,
    Settings,
    WorkloadSettings,
)
from autoscaling.simulator.workloads.trace import read_trace
from cluster.config import TIERS, Label, StepMilliseconds, Tier, TiersConfig, refuse
from cluster.errors import Fault
from cluster.facts import GPT_OSS_120B, gpu_bytes_of, kv_bytes_per_token, kv_pool_bytes, weights_fit
from cluster.loading import load_as
from cluster.pool_steps import own_steps
from cluster.steptime import StepModel, measured, step_model
from deployments.router.capacity import Slo
from deployments.router.settings import slo_of

GPU_MEMORY_UTILIZATION = 0.9
"""As a pool's default in `trireme.yaml`."""


class Pool(Settings):
    """A set of identical replicas of gpt-oss-120b."""

    name: Label = Field(default="main", description="Name of the pool, unique in the scenario.")
    replicas: int = Field(default=1, ge=1, le=4096, description="Replicas that are there at first.")
    gpu: str = Field(default="H200", min_length=1, description="Ray accelerator type, such as H200")
    tensor_parallel_size: Literal[1, 2, 4, 8] = Field(default=1, description="GPUs of one replica.")
    max_num_seqs: int = Field(
        default=256, ge=1, le=8192, description="Requests that a replica runs at once."
    )
    max_num_batched_tokens: int = Field(
        default=8192, ge=32, le=1_048_576, description="Tokens of one engine step."
    )
    kv_tokens: int | None = Field(
        default=None,
        ge=16,
        description="KV cache of a replica in tokens; None is what the GPUs' memory leaves.",
    )
    step_ms: StepMilliseconds | None = Field(
        default=None, description="Step times to keep instead of those measured on `gpu`."
    )
    tiers: list[Tier] = Field(
        default_factory=lambda: list(TIERS), description="Tiers whose requests come here first."
    )
    lends_to: list[Tier] = Field(
        default_factory=lambda: list(TIERS),
        description="Tiers that may come here while their own pools are behind.",
    )

    def steps(self) -> StepModel:
        """`step_ms`, or what was measured on the GPU."""
        if self.step_ms is not None:
            return own_steps(self.step_ms)
        found = step_model(self.gpu, self.tensor_parallel_size)
        assert found is not None  # or this pool would have been refused
        return found

    def kv_tokens_of_a_replica(self) -> int:
        """`kv_tokens`, or what 90 % of the GPUs' memory leaves for it."""
        if self.kv_tokens is not None:
            return self.kv_tokens
        tp = self.tensor_parallel_size
        free_bytes = kv_pool_bytes(
            GPT_OSS_120B,
            gpu_bytes_of(self.gpu) or 0,
            tp,
            GPU_MEMORY_UTILIZATION,
            self.max_num_batched_tokens,
        )
        return free_bytes // kv_bytes_per_token(GPT_OSS_120B, tp=tp)

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        memory_bytes = gpu_bytes_of(self.gpu)
        paced = self.step_ms is not None or step_model(self.gpu, self.tensor_parallel_size)
        if self.max_num_batched_tokens < self.max_num_seqs:
            yield Fault(
                "max_num_batched_tokens",
                f"{self.max_num_batched_tokens} is less than max_num_seqs ({self.max_num_seqs})",
                f"write {self.max_num_seqs} or more",
            )
        if not self.tiers and not self.lends_to:
            yield Fault("tiers", "no tier may use this pool", f"name some of {', '.join(TIERS)}")
        if memory_bytes is None or not paced:
            known = ", ".join(f"{gpu} × {tp}" for gpu, tp in measured())
            yield Fault(
                "gpu",
                f"the step times of {self.tensor_parallel_size} × {self.gpu} are not known",
                f"change gpu or tensor_parallel_size; measured: {known}",
            )
        elif self.kv_tokens is None and not weights_fit(
            GPT_OSS_120B,
            memory_bytes,
            self.tensor_parallel_size,
            gpu_memory_utilization=GPU_MEMORY_UTILIZATION,
            max_num_batched_tokens=self.max_num_batched_tokens,
        ):
            yield Fault(
                "tensor_parallel_size",
                f"gpt-oss-120b does not fit {self.tensor_parallel_size} × {self.gpu}",
                "raise it, lower max_num_batched_tokens, or set kv_tokens",
            )


class Join(Settings):
    """Replicas that are added while the scenario runs."""

    at_s: Amount = Field(description="Seconds after the start when they are asked for.")
    pool: Label = Field(default="main", description="The pool that they join.")
    replicas: int = Field(default=1, ge=1, le=4096, description="How many.")


class Fleet(Settings):
    """The engine replicas."""

    pools: list[Pool] = Field(
        default_factory=lambda: [Pool()], min_length=1, description="The pools."
    )
    cold_start_s: Amount = Field(
        default=300.0,
        description="Seconds from asking for a replica to its first request, for joins and for "
        "what replaces a crashed one.",
    )
    joins: list[Join] = Field(default_factory=list, description="Replicas that come later.")

    def replicas(self) -> int:
        """How many there ever are."""
        first = sum(pool.replicas for pool in self.pools)
        return first + sum(join.replicas for join in self.joins)

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        names = [pool.name for pool in self.pools]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield Fault(
                    f"pools[{index}].name", f"'{name}' is written twice", "give each its own"
                )
        for index, join in enumerate(self.joins):
            if join.pool not in names:
                yield Fault(
                    f"joins[{index}].pool",
                    f"there is no pool '{join.pool}'",
                    f"write one of {', '.join(names)}",
                )


class ReportsLost(Settings):
    """A time in which load reports do not arrive, while tokens still do."""

    at_s: Amount = Field(description="Seconds after the start when it begins.")
    for_s: Positive = Field(description="How long it lasts, in seconds.")


class Gateways(Settings):
    """The gateways, which share nothing but what the replicas tell each of them."""

    number: int = Field(default=1, ge=1, le=1024, description="How many there are.")
    frame_latency_s: Amount = Field(
        default=0.001,
        description="Seconds that a message takes between a gateway and a replica, either way.",
    )
    report_age_s: Amount = Field(
        default=0.0,
        description="Seconds that load reports are late besides; 0: they come in every frame.",
    )
    reports_lost: list[ReportsLost] = Field(
        default_factory=list, description="Times in which no load report arrives."
    )


class FaultEvent(Settings):
    """Something that goes wrong."""

    at_s: Amount = Field(description="Seconds after the start when it begins.")
    kind: Literal["crash", "hang", "slow", "partition"] = Field(
        description="crash: the replica is lost with its requests. hang: it stops and says "
        "nothing. slow: its steps take longer. partition: it and a gateway lose each other."
    )
    replica: int = Field(
        default=0,
        ge=0,
        description="Index of the replica over the whole fleet: the pools in their order, then "
        "the joins.",
    )
    gateway: int | None = Field(
        default=None, ge=0, description="For a partition, the gateway's index; None: every one."
    )
    for_s: Positive | None = Field(
        default=None,
        description="How long it lasts, in seconds; None: to the end. A crashed replica's "
        "successor then begins its cold start.",
    )
    factor: Annotated[float, Field(gt=1, le=1000)] = Field(
        default=2.0, description="For slow: how many times as long steps take."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.model_fields_set
        refuse(
            Fault(field, f"says nothing about a {self.kind}", f"remove it, or set kind to {kind}")
            for field, kind in (("gateway", "partition"), ("factor", "slow"))
            if field in given and self.kind != kind
        )
        return self


class Scenario(Settings):
    """All of a scenario. Times are seconds after its start."""

    name: Label = Field(default="scenario", description="Name of the scenario, for reports.")
    duration_s: Positive = Field(
        default=600.0, description="Seconds in which clients come; then all that runs may end."
    )
    warmup_s: Amount = Field(
        default=60.0, description="Requests of the first so many seconds count in no figure."
    )
    cooldown_s: Amount = Field(
        default=0.0,
        description="Requests of the last so many seconds of duration_s count in no figure: they "
        "keep the load up while those counted end.",
    )
    drain_s: Amount = Field(
        default=900.0,
        description="Longest time in seconds that is left after duration_s for requests to end.",
    )
    fleet: Fleet = Field(default_factory=Fleet, description="The replicas and their pools.")
    gateways: Gateways = Field(default_factory=Gateways, description="The gateways.")
    tiers: TiersConfig = Field(
        default_factory=TiersConfig,
        description="The tiers' queues, priors and objectives, as in trireme.yaml.",
    )
    tenant_weights: dict[str, Positive] = Field(
        default_factory=dict, description="Tenants' shares of a queue."
    )
    priority_tenants: list[str] = Field(
        default_factory=list, description="Tenants whose requests go ahead of all others'."
    )
    workload: WorkloadSettings = Field(
        default_factory=WorkloadSettings, description="Who sends requests."
    )
    faults: list[FaultEvent] = Field(default_factory=list, description="What goes wrong.")

    @property
    def measured_s(self) -> tuple[float, float]:
        """From when until when (exclusively) requests must first come to count in figures."""
        return self.warmup_s, self.duration_s - self.cooldown_s

    def slo(self, tier: Tier) -> Slo:
        """What clients of `tier` are promised."""
        return slo_of(self.tiers.of(tier))

    def at_rate(self, factor: float) -> Self:
        """The same scenario with `factor` times the load."""
        return self.model_copy(update={"workload": self.workload.at_rate(factor)})

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        start_s, end_s = self.measured_s
        if start_s >= end_s:
            yield Fault(
                "warmup_s",
                f"nothing of the {self.duration_s:g} s is left to measure",
                "lower warmup_s or cooldown_s, or raise duration_s",
            )
        if not self.workload.all():
            yield Fault(
                "workload",
                "nobody sends requests",
                "add an item to one of open_loop, closed_loop, sessions, replay",
            )
        replicas = self.fleet.replicas()
        for index, fault in enumerate(self.faults):
            if fault.replica >= replicas:
                yield Fault(
                    f"faults[{index}].replica",
                    f"there are {replicas} replicas, counted from 0",
                    f"write a number up to {replicas - 1}",
                )
            if fault.gateway is not None and fault.gateway >= self.gateways.number:
                yield Fault(
                    f"faults[{index}].gateway",
                    f"there are {self.gateways.number} gateways, counted from 0",
                    f"write a number up to {self.gateways.number - 1}",
                )


def ready_scenarios() -> dict[str, Path]:
    """The scenarios that come with the simulator, by name."""
    folder = Path(__file__).parent / "scenarios"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_scenario(path: Path) -> Scenario:
    """The scenario in the YAML file at `path`, with its traces' places made absolute.

    Raises `ConfigError` with every fault of the file, or the first one of a trace.
    """
    scenario = load_as(Scenario, path)
    traces = [
        each.model_copy(update={"file": str((path.parent / each.file).resolve())})
        for each in scenario.workload.replay
    ]
    for trace in traces:
        for _ in read_trace(Path(trace.file), skips_too_long=trace.skips_too_long):
            pass
    workload = scenario.workload.model_copy(update={"replay": traces})
    return scenario.model_copy(update={"workload": workload})
