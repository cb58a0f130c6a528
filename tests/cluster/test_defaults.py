from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import TriremeConfig
from cluster.defaults import TINY_NAME, check_against, default_config
from cluster.facts import GIB, gpu_bytes_of
from cluster.hardware import Gpu, Hardware, detect

LAPTOP = Hardware(cpus=2, memory_bytes=16 * GIB)


def machine(name: str, gpus: int) -> Hardware:
    memory = gpu_bytes_of(name)
    assert memory is not None
    return Hardware(128, 1024 * GIB, tuple(Gpu(f"NVIDIA {name}", memory) for _ in range(gpus)))


def with_pool(pool: dict[str, Any], **sections: Any) -> TriremeConfig:
    model = {"name": "gpt-oss-120b", "pools": [pool]}
    return TriremeConfig.model_validate({"models": [model], **sections})


def test_a_machine_without_gpus_serves_two_replicas_of_the_tiny_model() -> None:
    config = default_config(LAPTOP)
    [(model, pool)] = config.pools()
    assert (model.name, model.source, pool.engine, pool.replicas) == (TINY_NAME, "tiny", "vllm", 2)


def test_a_machine_with_gpus_serves_the_real_model_on_all_of_them() -> None:
    [(model, pool)] = default_config(machine("H200", 8)).pools()
    assert (model.name, pool.replicas, pool.tensor_parallel_size) == ("gpt-oss-120b", 8, 1)
    [(model, pool)] = default_config(machine("L4", 8)).pools()
    assert (model.name, pool.replicas, pool.tensor_parallel_size) == ("gpt-oss-120b", 1, 8)
    [(model, pool)] = default_config(machine("L4", 4)).pools()
    assert (model.name, pool.replicas, pool.tensor_parallel_size) == ("gpt-oss-20b", 4, 1)


def test_replicas_port_and_engine_can_be_asked_for() -> None:
    config = default_config(LAPTOP, engine="simulated", replicas=5, port=9000)
    [(model, pool)] = config.pools()
    assert (model.name, pool.engine, pool.replicas) == (TINY_NAME, "simulated", 5)
    assert config.gateway.port == 9000


@given(
    cpus=st.integers(min_value=1, max_value=256),
    gib=st.integers(min_value=4, max_value=300),
    gpus=st.integers(min_value=0, max_value=16),
    engine=st.sampled_from([None, "vllm", "simulated"]),
)
def test_a_default_configuration_always_passes_its_own_check(cpus, gib, gpus, engine) -> None:  # type: ignore[no-untyped-def]
    hardware = Hardware(cpus, 64 * GIB, tuple(Gpu("NVIDIA X", gib * GIB) for _ in range(gpus)))
    assert check_against(default_config(hardware, engine=engine), hardware) == []


def test_a_model_too_large_for_the_gpus_is_told_the_group_that_fits() -> None:
    [fault] = check_against(with_pool({}), machine("A100-40G", 8))
    assert fault.path == "models[0].pools[0].tensor_parallel_size"
    assert "does not fit 1 GPU of 40 GiB" in fault.problem
    assert fault.remedy == "write 4"


def test_an_80_gb_gpu_is_told_the_settings_that_fit() -> None:
    [fault] = check_against(with_pool({}), machine("H100", 1))
    assert fault.remedy == "set gpu_memory_utilization to 0.95 and max_num_batched_tokens to 1024"


def test_a_model_that_fits_no_group_here_is_told_the_one_that_does() -> None:
    [fault] = check_against(with_pool({}), machine("A100-40G", 2))
    assert fault.remedy == "serve openai/gpt-oss-20b"


def test_the_memory_of_another_machines_gpus_is_checked_by_their_type() -> None:
    pool = {"gpu_type": "A100-40G"}
    [fault] = check_against(with_pool(pool, ray={"address": "ray:10001"}), LAPTOP)
    assert fault.remedy == "write 4"


def test_a_remedy_on_memory_is_one_that_works() -> None:
    for name, gpus in (("A100-40G", 8), ("L40S", 4), ("L4", 8)):
        hardware = machine(name, gpus)
        [fault] = check_against(with_pool({}), hardware)
        size = int(fault.remedy.rpartition(" ")[2])
        assert check_against(with_pool({"tensor_parallel_size": size}), hardware) == []


def test_more_replicas_than_gpus_are_told_how_many_fit() -> None:
    pool = {"replicas": 3, "tensor_parallel_size": 4}
    [fault] = check_against(with_pool(pool), machine("H200", 8))
    assert fault.path == "models[0].pools[0].replicas"
    assert "want 12 and 8 are left" in fault.problem
    assert fault.remedy == "write 2 or less"


def test_pools_share_the_gpus() -> None:
    pools = [
        {"name": "a", "tensor_parallel_size": 4},
        {"name": "b", "tensor_parallel_size": 8},
    ]
    config = TriremeConfig.model_validate({"models": [{"pools": pools}]})
    [fault] = check_against(config, machine("H200", 8))
    assert fault.path == "models[0].pools[1].tensor_parallel_size"
    assert fault.remedy == "write 4"


def test_the_real_model_without_a_gpu_is_told_the_ways_out() -> None:
    [fault] = check_against(with_pool({}), LAPTOP)
    assert "models[0].source to tiny" in fault.remedy
    [fault] = check_against(with_pool({"device": "gpu"}), LAPTOP)
    assert fault.problem == "this machine has no GPU"


def test_a_gpu_type_that_is_not_here_is_named() -> None:
    [fault] = check_against(with_pool({"gpu_type": "B200"}), machine("H200", 1))
    assert fault.path == "models[0].pools[0].gpu_type"
    assert "NVIDIA H200" in fault.problem
    assert check_against(with_pool({"gpu_type": "H200"}), machine("H200", 1)) == []


def test_simulated_and_cpu_pools_need_no_gpu() -> None:
    assert check_against(with_pool({"engine": "simulated"}), LAPTOP) == []
    assert check_against(with_pool({"device": "cpu"}), LAPTOP) == []


def test_more_cpus_than_there_are_is_told_a_share_that_fits() -> None:
    pool = {"engine": "simulated", "replicas": 4}
    [fault] = check_against(with_pool(pool), LAPTOP)
    assert fault.path == "gateway.num_cpus"
    share = 0.4
    assert f"write {share}" in fault.remedy
    fixed = with_pool({**pool, "num_cpus": share}, gateway={"num_cpus": share})
    assert check_against(fixed, LAPTOP) == []


@pytest.fixture
def nvidia_smi(tmp_path: Path) -> dict[str, str]:
    """A driver's tool that answers as nvidia-smi does on a machine with two GPUs."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$*" in *=index,uuid,name,memory.total*noheader,nounits*) ;; *) exit 2;; esac\n'
        'echo "0, GPU-aa, NVIDIA H200, 143771"\n'
        'echo "1, GPU-bb, NVIDIA H100 80GB HBM3, [N/A]"\n'
    )
    tool.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin"}


def test_gpus_are_read_from_the_drivers_tool(nvidia_smi: dict[str, str]) -> None:
    h200, h100 = detect(nvidia_smi).gpus
    assert h200 == Gpu("NVIDIA H200", 143_771 * 1024**2)
    assert h100.memory_bytes == gpu_bytes_of("H100")


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("1", 1), ("GPU-aa", 1), ("0,1", 2)])
def test_hidden_gpus_do_not_count(nvidia_smi: dict[str, str], visible: str, count: int) -> None:
    assert len(detect({**nvidia_smi, "CUDA_VISIBLE_DEVICES": visible}).gpus) == count


def test_a_machine_without_the_drivers_tool_has_no_gpus(tmp_path: Path) -> None:
    hardware = detect({"PATH": str(tmp_path)})
    assert hardware.gpus == ()
    assert hardware.cpus >= 1
    assert hardware.memory_bytes > GIB // 4


def test_a_containers_limits_count_and_not_its_hosts(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("134217728\n")
    limited = detect({"PATH": str(tmp_path)}, cgroup=tmp_path)
    assert (limited.cpus, limited.memory_bytes) == (1, 134_217_728)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "a" * 39, "A" * 40])
def test_callers_with_keys_get_a_model_that_stays_the_same(revision: str | None) -> None:
    def found(source: str, engine: str = "vllm", mode: str = "keys") -> list[str]:
        model = {"source": source, "pools": [{"engine": engine}], "revision": revision}
        tree = {"models": [model], "access": {"mode": mode}}
        config = TriremeConfig.model_validate(tree)
        return [fault.path for fault in check_against(config, machine("H200", 1))]

    assert found("openai/gpt-oss-120b") == ["models[0].revision"]
    assert found("openai/gpt-oss-120b", mode="none") == []
    assert found("openai/gpt-oss-120b", engine="simulated") == []
    assert found("/models/gpt-oss-120b") == []
    revision = "a" * 40
    assert found("openai/gpt-oss-120b") == []
