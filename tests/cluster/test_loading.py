import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import TIERS, TriremeConfig
from cluster.defaults import default_config
from cluster.errors import ConfigError, Fault
from cluster.facts import GIB
from cluster.hardware import Hardware
from cluster.loading import dump, load

LAPTOP = Hardware(cpus=2, memory_bytes=16 * GIB)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trireme.yaml"


def faults(path: Path | None, environ: dict[str, str] | None = None) -> dict[str, str]:
    """Path → problem and remedy of every fault."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    lines = {fault.path: f"{fault.problem}; {fault.remedy}" for fault in caught.value.faults}
    assert len(lines) == len(caught.value.faults), "a place was reported twice"
    assert all("\n" not in line for line in lines.values())
    return lines


def test_nothing_given_is_the_built_in_configuration(file: Path) -> None:
    assert load(None, {}) == TriremeConfig()
    file.write_text("# only a comment\n")
    assert load(file, {}) == TriremeConfig()


def test_the_environment_counts_over_the_file_over_the_default(file: Path) -> None:
    file.write_text("gateway: {port: 8100, replicas: 2}\n")
    config = load(file, {"TRIREME_GATEWAY__PORT": "9000", "PATH": "/bin"})
    assert (config.gateway.port, config.gateway.replicas, config.channel.heartbeat_s) == (
        9000,
        2,
        1.0,
    )


def test_lists_are_reached_by_index_and_grow_by_one(file: Path) -> None:
    file.write_text("models: [{name: m, pools: [{name: a}, {name: b}]}]\n")
    environ = {
        "TRIREME_MODELS__0__POOLS__1__REPLICAS": "3",
        "TRIREME_MODELS__0__POOLS__2__NAME": "c",
        "TRIREME_MODELS__0__POOLS__2__TIERS": "[high]",
    }
    pools = load(file, environ).models[0].pools
    assert [(pool.name, pool.replicas) for pool in pools] == [("a", 1), ("b", 3), ("c", 1)]
    assert pools[2].tiers == ["high"]


def test_names_below_env_and_engine_args_reach_the_engine(file: Path) -> None:
    file.write_text("models: [{pools: [{}]}]\n")
    pool = "TRIREME_MODELS__0__POOLS__0"
    environ = {f"{pool}__ENV__Some__Name": "1", f"{pool}__ENGINE_ARGS__KV_CACHE_DTYPE": "fp8"}
    loaded = load(file, environ).models[0].pools[0]
    assert loaded.env == {"Some__Name": "1"}
    assert loaded.engine_args == {"kv_cache_dtype": "fp8"}


def test_variables_that_are_no_settings_are_left_alone() -> None:
    environ = {
        "TRIREME_HOME": "/srv",
        "TRIREME_CLUSTER": "blue",
        # What Kubernetes sets in every pod beside a Service named `trireme` or `trireme-gateway`.
        "TRIREME_PORT": "tcp://10.0.0.1:8000",
        "TRIREME_SERVICE_HOST": "10.0.0.1",
        "TRIREME_GATEWAY_SERVICE_PORT_HTTP": "8000",
        "TRIREME_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    assert load(None, environ) == TriremeConfig()


def test_an_unknown_variable_is_named_with_the_one_that_was_meant() -> None:
    found = faults(None, {"TRIREME_GATWAY__PORT": "1", "TRIREME_GATEWAY__PRT": "1"})
    assert found["TRIREME_GATWAY__PORT"].endswith("write TRIREME_GATEWAY__PORT")
    assert found["TRIREME_GATEWAY__PRT"].endswith("write TRIREME_GATEWAY__PORT")


@pytest.mark.parametrize(
    "variable",
    [
        *("TRIREME_", "TRIREME_GATEWAY__PORT__X", "TRIREME_MODELS__X", "TRIREME_MODELS__0__0"),
        *("TRIREME_0", "TRIREME_NAME__0", "TRIREME_MODELS__5__NAME", "TRIREME_GATEWAY__"),
    ],
)
def test_a_variable_that_leads_nowhere_is_a_fault_and_no_crash(variable: str) -> None:
    assert variable in faults(None, {variable: "1"})


def test_a_bad_value_names_the_variable_that_brought_it() -> None:
    found = faults(None, {"TRIREME_GATEWAY__PORT": "eighty"})
    assert "(from TRIREME_GATEWAY__PORT)" in found["gateway.port"]
    assert "from 0 to 65535" in found["gateway.port"]
    assert "TRIREME_NAME" in faults(None, {"TRIREME_NAME": "[unclosed"})


def test_without_models_the_fallback_stands_and_can_be_overridden(file: Path) -> None:
    def fallback() -> TriremeConfig:
        return default_config(LAPTOP)

    assert load(None, {}, fallback=fallback) == fallback()
    file.write_text("gateway: {port: 8100}\n")
    environ = {"TRIREME_MODELS__0__POOLS__0__REPLICAS": "1"}
    config = load(file, environ, fallback=fallback)
    assert (config.models[0].source, config.models[0].pools[0].replicas) == ("tiny", 1)
    assert config.gateway.port == 8100
    assert config.gateway.num_cpus == fallback().gateway.num_cpus


def test_with_models_the_fallback_is_not_asked(file: Path) -> None:
    def never() -> TriremeConfig:
        raise AssertionError("asked for a fallback that is not needed")

    file.write_text("models: [{name: mine}]\n")
    assert load(file, {}, fallback=never).models[0].name == "mine"


def test_every_fault_is_reported_at_once_with_its_path_and_remedy(file: Path) -> None:
    file.write_text(
        """
name: Tri Reme
port: 9000
gatway: {}
gateway: {host: 0.0.0.0, prt: 3, replicas: many, max_body_bytes: 3}
tiers: {default: hihg, low: {priority: -1}}
channel: {heartbeat_s: 5, dead_after_s: .inf}
ray: {address: auto, num_cpus: 3, temp_dir: foo}
models:
  - name: a
    pools:
      - {name: x, tensor_parallel_size: 3, tiers: [lwo]}
      - {name: x, max_num_seqs: 1000, max_num_batched_tokens: 100, engine_args: {max-num-seqs: 3}}
  - {name: a, aliases: [b-high], pools: []}
  - {name: b, max_model_len: 1.5, source: tiny, pools: [{tensor_parallel_size: 4}]}
"""
    )
    found = faults(file)
    expected = {
        "name": "small letters",
        "port": "write it under gateway",
        "gatway": "did you mean gateway?",
        "gateway.prt": "did you mean port?",
        "gateway.replicas": "write a whole number from 1 to 1024",
        "gateway.max_body_bytes": "from 1024 to",
        "gateway.host": "write 127.0.0.1, or set access.mode to keys",
        "tiers.default": "did you mean high? write one of low, medium, high",
        "tiers.low.priority": "from 0 to 1000",
        "channel.dead_after_s": "finite number above 0",
        "ray.temp_dir": "absolute path",
        "ray.num_cpus": "remove num_cpus",
        "models[0].pools[0].tensor_parallel_size": "write one of 1, 2, 4, 8",
        "models[0].pools[0].tiers[0]": "did you mean low?",
        "models[0].pools[1].name": "also the name of models[0].pools[0]",
        "models[0].pools[1].max_num_batched_tokens": "write 1000 or more",
        "models[0].pools[1].engine_args.max-num-seqs": "set the pool's max_num_seqs instead",
        "models[1].name": "already means models[0].name",
        "models[1].aliases[0]": "already means models[2] at that tier",
        "models[1].pools": "name at least one",
        "models[2].max_model_len": "write a whole number from 256",
        "models[2].pools[0].tensor_parallel_size": "write 1 or 2",
    }
    assert set(found) == set(expected)
    for path, words in expected.items():
        assert words in found[path], f"{path}: {found[path]}"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("gateway: [1, 2", "line 1, column 15", "correct the YAML"),
        ("name: a\n\tb: c\n", "line 2, column 1", "correct the YAML"),
        ("gateway:\n  port: 1\n  port: 2\n", "line 3, column 3", "'port' is written twice"),
    ],
)
def test_a_syntax_error_has_line_and_column(file: Path, text: str, place: str, words: str) -> None:
    file.write_text(text)
    [(path, line)] = faults(file).items()
    assert path.endswith(place)
    assert words in line


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "3\n"])
def test_a_file_that_is_no_mapping_is_told_so(file: Path, text: str) -> None:
    file.write_text(text)
    assert "write `key: value` lines" in faults(file)[str(file)]


def test_an_unreadable_file_is_a_fault(file: Path) -> None:
    assert "no such file" in faults(file)[str(file)]
    file.write_bytes(b"name: \xff\xfe\n")
    assert "UTF-8" in faults(file)[str(file)]


@pytest.mark.parametrize(
    "text",
    [
        *("1: x", "gateway: 3", "models: 3", "models: [3]", "models: [[]]", "tiers: [low]"),
        *("models: [{pools: [{engine_args: {max-num[x: 1}}]}]", "models: [{pools: {}}]"),
        *("gateway: null", "models: [{pools: [{env: {A: [1]}, engine_args: 3}]}]", "? [a]\n: b"),
    ],
)
def test_any_shape_of_file_ends_in_faults_and_not_in_a_crash(file: Path, text: str) -> None:
    file.write_text(text)
    assert faults(file)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*TriremeConfig.model_fields, "pools", "low", "env", "x", "host"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    tree=st.dictionaries(st.sampled_from([*TriremeConfig.model_fields, "y"]), json_values),
    environ=st.dictionaries(
        st.sampled_from(
            ["TRIREME_GATEWAY__PORT", "TRIREME_MODELS__0__NAME", "TRIREME_TIERS", "TRIREME_RAY__X"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6),
    ),
)
def test_whatever_is_written_loads_or_is_explained(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any], environ: dict[str, str]
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(tree))
    found: tuple[Fault, ...] = ()
    try:
        config = load(file, environ)
    except ConfigError as error:
        found = error.faults
    else:
        assert config.models
        return
    assert found
    assert all(fault.path and fault.problem and fault.remedy for fault in found)


tiers = st.lists(st.sampled_from(TIERS), unique=True)
pools = st.fixed_dictionaries(
    {
        "replicas": st.integers(1, 64),
        "tensor_parallel_size": st.sampled_from([1, 2, 4, 8]),
        "max_num_seqs": st.integers(1, 32),
        "gpu_memory_utilization": st.floats(0.1, 0.98),
        "tiers": tiers,
        "env": st.dictionaries(st.from_regex(r"[A-Z_]{1,8}X", fullmatch=True), st.text(max_size=9)),
        "engine_args": st.fixed_dictionaries(
            {}, optional={"kv_cache_dtype": st.text(max_size=5), "seed": st.integers()}
        ),
    }
)
configs = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True),
        "tiers": st.fixed_dictionaries(
            {"high": st.fixed_dictionaries({"max_queued": st.integers(1, 9)})}
        ),
        "gateway": st.fixed_dictionaries(
            {
                "port": st.integers(0, 65535),
                "haproxy": st.booleans(),
                "system_start_date": st.none() | st.dates().map(str),
            }
        ),
        "models": st.lists(pools, min_size=1, max_size=3).map(
            lambda made: [
                {
                    "revision": "1e5",
                    "pools": [{"name": "all"}]
                    + [
                        {"name": f"p{i}", "lends_to": ["low"], **pool}
                        for i, pool in enumerate(made)
                    ],
                }
            ]
        ),
    },
)


@settings(max_examples=100, deadline=None)
@given(data=configs)
def test_what_is_shown_loads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]
) -> None:
    config = TriremeConfig.model_validate(data)
    file = tmp_path_factory.getbasetemp() / "shown.yaml"
    file.write_text(dump(config), encoding="utf-8")
    assert load(file, {}) == config


def test_secrets_of_an_engine_are_not_shown() -> None:
    config = load(None, {"TRIREME_MODELS__0__POOLS__0__ENV__HF_TOKEN": "hf_abc"})
    assert config.models[0].pools[0].env == {"HF_TOKEN": "hf_abc"}
    assert "hf_abc" not in dump(config)


def test_the_real_environment_of_this_machine_is_no_fault() -> None:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("TRIREME_")}
    assert load(None, mine) == TriremeConfig()
