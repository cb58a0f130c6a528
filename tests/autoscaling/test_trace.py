"""Traces from files: the columns in all their spellings, and what is wrong by line and column."""

from pathlib import Path
from typing import Any

import pytest

from autoscaling.simulator.work import Arrival
from autoscaling.simulator.workloads import Traffic, WorkloadSettings
from autoscaling.simulator.workloads.trace import read_trace
from cluster.errors import ConfigError

HEADER = "time,prompt_tokens,output_tokens,tier,tenant,prefix\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace.csv"


def replayed(file: Path, seed: int = 1, **settings: Any) -> list[Arrival]:
    workload = WorkloadSettings.model_validate({"replay": [{"file": str(file)} | settings]})
    return list(Traffic(workload, seed, 1000.0).first())


def fault(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        list(read_trace(file))
    (found,) = caught.value.faults
    return str(found).removeprefix(str(file))


def test_every_column_reaches_the_request(file: Path) -> None:
    file.write_text(HEADER + "0.5,100,20,low,acme,p\n1.5,200,30,high,acme,p\n2,300,40,LOW,b,p\n")
    one, two, three = replayed(file)
    assert (one.at_s, one.prompt_tokens, one.output_tokens) == (0.5, 100, 20)
    assert (one.tier, one.tenant, two.tier, three.tier) == ("low", "acme", "high", "low")
    assert one.session == two.session != 0
    assert three.session not in (0, one.session), "a prefix belongs to its tenant"


def test_the_spellings_of_public_files_are_read_and_other_columns_left_alone(file: Path) -> None:
    file.write_text(
        "t_s,input_tokens,answer_tokens,reasoning_tokens,output_tokens,reasoning_effort,kind\n"
        "0.000,374,44,912,956,high,conv\n0.052,3180,8,18,26,low,code\n"
    )
    one, two = replayed(file)
    assert (one.tier, one.prompt_tokens, one.output_tokens, one.answer_tokens) == (
        "high",
        374,
        956,
        44,
    )
    assert (two.tier, two.session, two.shared) == ("low", 0, 0)


def test_a_prefix_with_its_length_is_a_shared_beginning(file: Path) -> None:
    file.write_text(
        "time,prompt_tokens,output_tokens,prefix,prefix_tokens\n0,100,9,s,64\n1,50,9,s,64\n"
    )
    one, two = replayed(file)
    assert (one.shared, one.shared_tokens, one.session) == (two.shared, 64, 0)
    assert (two.shared_tokens, one.reusable) == (50, True)


def test_rows_without_tier_or_tenant_draw_them_by_seed(file: Path) -> None:
    file.write_text(
        "time,prompt_tokens,output_tokens\n" + "".join(f"{i},10,10\n" for i in range(900))
    )
    tenants = [{"name": "a"}, {"name": "b"}]
    found = replayed(file, tenants=tenants)
    assert {each.tier for each in found} == {"low", "medium", "high"}
    assert {each.tenant for each in found} == {"a", "b"}
    assert found == replayed(file, tenants=tenants)
    assert found != replayed(file, seed=2, tenants=tenants)


def test_rate_factor_replays_faster(file: Path) -> None:
    file.write_text(HEADER + "0,1,1,low,,\n10,1,1,low,,\n")
    assert [each.at_s for each in replayed(file, rate_factor=4)] == [0, 2.5]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "prompt_tokens,output_tokens\n1,1\n",
            "line 1: no column time or t_s or time_s (there: prom",
        ),
        (
            "time,prompt_tokens\n0,1\n",
            "line 1: no column output_tokens (there: time, prompt_tokens)",
        ),
        (HEADER + "0,1,1,low,,\nsoon,1,1,low,,\n", "line 3, column time: 'soon' is no time"),
        (HEADER + "-1,1,1,low,,\n", "line 2, column time: '-1' is no time"),
        (HEADER + "nan,1,1,low,,\n", "line 2, column time: 'nan' is no time"),
        (
            HEADER + "5,1,1,low,,\n4,1,1,low,,\n",
            "line 3, column time: 4 is before the row above (5)",
        ),
        (HEADER + "0,0,1,low,,\n", "line 2, column prompt_tokens: '0' is no number of tokens"),
        (HEADER + "0,131072,1,low,,\n", "line 2, column prompt_tokens: 131072 tokens do not fit"),
        (HEADER + "0,1,1.5,low,,\n", "line 2, column output_tokens: '1.5' is no number of tokens"),
        (HEADER + "0,1,1,extreme,,\n", "line 2, column tier: 'extreme' is no tier"),
        (HEADER + "0,1,1,low\n", "line 2: 4 cells under 6 columns"),
        (HEADER + '0,1,1,low,"x\n', "line 2: is not CSV: unexpected end of data"),
    ],
)
def test_faults_name_the_line_and_the_column(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    assert fault(file).startswith(f", {told}")


def test_an_empty_file_lacks_every_column(file: Path) -> None:
    file.write_text("")
    with pytest.raises(ConfigError) as caught:
        list(read_trace(file))
    assert len(caught.value.faults) == 3


def test_prompts_that_no_context_holds_can_be_left_out(file: Path) -> None:
    file.write_text(HEADER + "0,131071,9,low,,\n1,131072,1,low,,\n2,5,1,low,,\n")
    found = replayed(file, skips_too_long=True)
    assert [(each.at_s, each.output_tokens) for each in found] == [(0, 1), (2, 1)]


def test_files_that_cannot_be_read_are_faults(file: Path) -> None:
    assert "cannot be read: no such file" in fault(file)
    file.write_bytes(b"time\xff\n")
    assert "is not UTF-8" in fault(file)


def test_a_byte_order_mark_and_blank_lines_are_no_faults(file: Path) -> None:
    file.write_text("\ufeff" + HEADER + "\n0,1,1,low,,\n\n", encoding="utf-8")
    assert len(list(read_trace(file))) == 1
