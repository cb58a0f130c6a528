"""Scenario files: what they default to, what they refuse, and how that is told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from autoscaling.simulator.scenario import Scenario, load_scenario, ready_scenarios
from autoscaling.simulator.workloads import Traffic
from cluster.errors import ConfigError
from tests.autoscaling.making import scenario

OPEN = {"open_loop": [{}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "scenario.yaml"


def faults(file: Path, tree: Any) -> dict[str, str]:
    file.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as caught:
        load_scenario(file)
    return {fault.path: f"{fault.problem}; {fault.remedy}" for fault in caught.value.faults}


@pytest.mark.parametrize("name", ["mixed-tiers", "overload", "sessions"])
def test_ready_scenarios_load_and_bring_requests(name: str) -> None:
    found = load_scenario(ready_scenarios()[name])
    assert found.name == name
    first = Traffic(found.workload, 1, found.duration_s).first()
    assert next(first).at_s < found.duration_s


def test_the_mixed_tiers_scenario_is_the_researched_one() -> None:
    found = load_scenario(ready_scenarios()["mixed-tiers"])
    (pool,), (workload,) = found.fleet.pools, found.workload.open_loop
    assert (pool.replicas, pool.gpu, pool.tensor_parallel_size) == (8, "H200", 2)
    assert workload.mix.weights() == (0.5, 0.35, 0.15)
    assert workload.arrivals.cv == 1.5
    assert [found.slo(tier).ttft_s for tier in ("low", "medium", "high")] == [1, 2, 3]
    assert [found.slo(tier).tpot_s for tier in ("low", "medium", "high")] == [0.015, 0.025, 0.08]


def test_every_setting_says_what_it_is() -> None:
    def undescribed(schema: Any, at: str = "") -> list[str]:
        found = []
        for name, field in schema.get("properties", {}).items():
            if "description" not in field:
                found.append(f"{at}.{name}")
        return found

    schema = Scenario.model_json_schema()
    classes = {"Scenario": schema, **schema["$defs"]}
    assert [name for key, each in classes.items() for name in undescribed(each, key)] == []


def test_memory_left_by_the_weights_is_the_kv_cache_unless_given() -> None:
    pool = scenario(
        OPEN, fleet={"pools": [{"gpu": "H200", "tensor_parallel_size": 2}]}
    ).fleet.pools[0]
    # 2 × 143,771 MiB × 0.9, less 64.38 GiB of weights and 2 × 6 GiB: 176 GiB at 36 KiB a token.
    assert pool.kv_tokens_of_a_replica() == pytest.approx(176.3 * 2**30 / 36_864, rel=0.01)
    assert pool.model_copy(update={"kv_tokens": 5000}).kv_tokens_of_a_replica() == 5000


def test_every_fault_is_told_at_once_with_its_path_and_remedy(file: Path) -> None:
    found = faults(
        file,
        {
            "duratoin_s": 5,
            "fleet": {"pools": [{"replicas": 0, "tensor_parallel_size": 3}]},
            "workload": {"open_loop": [{"arrivals": {"rate_per_s": -1}, "patience": {"share": 2}}]},
        },
    )
    assert "did you mean duration_s?" in found["duratoin_s"]
    assert "write a number from 1 to 4096" in found["fleet.pools[0].replicas"]
    assert "write one of 1, 2, 4, 8" in found["fleet.pools[0].tensor_parallel_size"]
    assert "above 0" in found["workload.open_loop[0].arrivals.rate_per_s"]
    assert "from 0 to 1" in found["workload.open_loop[0].patience.share"]
    assert len(found) == 5


@pytest.mark.parametrize(
    ("tree", "path", "told"),
    [
        ({}, "workload", "nobody sends requests"),
        ({"workload": OPEN, "warmup_s": 600}, "warmup_s", "nothing of the 600 s is left"),
        ({"workload": {"replay": [{}]}}, "workload.replay[0].file", "is not set; add it"),
        (
            {"workload": OPEN, "fleet": {"pools": [{}, {"gpu": "H1OO", "name": "b"}]}},
            "fleet.pools[1].gpu",
            "the step times of 1 × H1OO are not known",
        ),
        (
            {"workload": OPEN, "fleet": {"pools": [{"max_num_batched_tokens": 262144}]}},
            "fleet.pools[0].tensor_parallel_size",
            "does not fit 1 × H200",
        ),
        (
            {"workload": OPEN, "fleet": {"pools": [{}, {}]}},
            "fleet.pools[1].name",
            "'main' is written twice",
        ),
        (
            {"workload": OPEN, "fleet": {"joins": [{"at_s": 1, "pool": "b"}]}},
            "fleet.joins[0].pool",
            "write one of main",
        ),
        (
            {"workload": OPEN, "faults": [{"at_s": 1, "kind": "crash", "replica": 1}]},
            "faults[0].replica",
            "write a number up to 0",
        ),
        (
            {"workload": OPEN, "faults": [{"at_s": 1, "kind": "crash", "factor": 3}]},
            "faults[0].factor",
            "says nothing about a crash",
        ),
        (
            {"workload": OPEN, "faults": [{"at_s": 1, "kind": "partition", "gateway": 1}]},
            "faults[0].gateway",
            "write a number up to 0",
        ),
        (
            {"workload": {"open_loop": [{"arrivals": {"shape": [{"at_s": 0, "factor": 0}]}}]}},
            "workload.open_loop[0].arrivals.shape",
            "the rate is always 0",
        ),
        (
            {"workload": {"open_loop": [{"mix": {"shifts": [{"at_s": 1}]}}]}},
            "workload.open_loop[0].mix.shifts[0]",
            "no tier has a weight",
        ),
        (
            {"workload": {"sessions": [{"tenants": [{"name": "a"}, {"name": "a"}]}]}},
            "workload.sessions[0].tenants[1].name",
            "written twice",
        ),
        (
            {"workload": {"sessions": [{"prompts": {"tokens_max": 131072}}]}},
            "workload.sessions[0].prompts.tokens_max",
            "no room for output",
        ),
    ],
)
def test_what_cannot_be_is_refused(file: Path, tree: Any, path: str, told: str) -> None:
    found = faults(file, tree)
    assert told in found[path]
    assert len(found) == 1


def test_a_trace_lies_beside_its_scenario_and_is_checked_with_it(file: Path) -> None:
    tree = {"duration_s": 100, "workload": {"replay": [{"file": "t.csv"}]}}
    trace = file.with_name("t.csv")
    assert "no such file" in faults(file, tree)[str(trace)]
    trace.write_text("time,prompt_tokens,output_tokens\n0,1,1\n1,1,x\n")
    assert "'x'" in faults(file, tree)[f"{trace}, line 3, column output_tokens"]
    trace.write_text("time,prompt_tokens,output_tokens\n0,1,1\n")
    assert load_scenario(file).workload.replay[0].file == str(trace)


def test_a_file_that_is_no_yaml_names_the_place(file: Path) -> None:
    (where,) = faults(file, "name: a\nname: b\n")
    assert where == f"{file}, line 2, column 1"
