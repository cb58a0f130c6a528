"""The command line's manners: one line for an error, the right exit code, plain text in pipes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.cli.app import run
from cluster.config import TriremeConfig


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("TRIREME_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("TRIREME_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def write(text: str) -> str:
    Path("file.yaml").write_text(text)
    return "file.yaml"


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


@pytest.mark.parametrize(
    "args",
    [
        ["frobnicate"],
        ["up", "--port", "eighty"],
        ["up", "--port", "70000"],
        ["up", "--replicas", "0"],
        ["up", "--engine", "steam"],
        ["up", "--config", "absent.yaml"],
        ["up", "extra"],
        ["chat", "hi", "--tier", "extreme"],
        ["config", "frobnicate"],
        ["config", "check", "absent.yaml"],
        ["config", "show", "."],
        ["status", "--frob"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(args) == 2
    told = capsys.readouterr()
    assert only_line(told.err).startswith("error: ")
    assert told.out == ""


def test_every_fault_of_a_file_is_told_with_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    file = write("gatway: {}\nmodels: [{pools: [{tensor_parallel_size: 3, replicas: 0}]}]\n")

    assert run(["config", "check", file]) == 2

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert any("gatway" in line and "did you mean gateway" in line for line in lines)
    assert any("pools[0].tensor_parallel_size" in line and "1, 2, 4, 8" in line for line in lines)


def test_a_config_that_does_not_fit_the_machine_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write("ray: {num_cpus: 1}\nmodels: [{source: tiny, max_model_len: 4096}]\n")

    assert run(["up", "--config", file]) == 2

    assert "ask Ray for 2 CPUs and 1 are here" in only_line(capsys.readouterr().err)
    assert not Path("home").exists()


def test_engine_args_are_checked_by_vllms_own_parser(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vllm")
    file = write(
        "models:\n- source: tiny\n  max_model_len: 4096\n  pools:\n"
        "  - {num_cpus: 0.5, engine_args: {no_such_thing: 1, block_size: 16}}\n"
        "gateway: {num_cpus: 0.5}\n"
    )

    assert run(["config", "check", file]) == 2

    line = only_line(capsys.readouterr().err)
    assert "models[0].pools[0].engine_args.no_such_thing" in line


def test_a_model_that_may_change_is_worth_a_warning_and_with_keys_a_refusal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (
        "ray: {address: 'ray:10001'}\nmodels: [{pools: [{gpu_type: H200}]}]\naccess: {mode: MODE}\n"
    )
    assert run(["config", "check", write(text.replace("MODE", "none"))]) == 0
    assert only_line(capsys.readouterr().err).startswith("warning: models[0].revision: ")
    for command in ("config", "k8s"):
        assert run([command, "check", write(text.replace("MODE", "keys"))]) == 2
        assert only_line(capsys.readouterr().err).startswith("error: models[0].revision: ")


def test_the_defaults_have_no_faults(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check"]) == 0
    assert capsys.readouterr().out == "built-in defaults: no faults\n"


def test_shown_configuration_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    file = write("name: mine\nmodels: [{source: tiny, max_model_len: 4096}]\n")
    assert run(["config", "show", file]) == 0
    shown = TriremeConfig.model_validate(yaml.safe_load(capsys.readouterr().out))
    assert shown.name == "mine"
    assert shown.models[0].max_model_len == 4096


def test_a_file_in_the_current_folder_counts_and_the_environment_counts_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("trireme.yaml").write_text("name: found\ngateway: {port: 9001}\n")
    monkeypatch.setenv("TRIREME_GATEWAY__PORT", "9002")
    assert run(["config", "show"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["name"], shown["gateway"]["port"]) == ("found", 9002)


def test_the_schema_names_every_setting_of_the_top(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == set(TriremeConfig.model_fields)


def test_a_taken_port_is_told_at_once_also_in_the_background(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["up", "--engine", "simulated", "--port", port, "--detach"]) == 2
        assert f"port {port}" in only_line(capsys.readouterr().err)


def test_replicas_for_several_pools_belong_into_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pools = "[{name: a, engine: simulated}, {name: b, engine: simulated}]"
    file = write(f"models: [{{source: tiny, max_model_len: 4096, pools: {pools}}}]\n")
    assert run(["up", "--config", file, "--replicas", "3"]) == 2
    assert "2 pools" in only_line(capsys.readouterr().err)


def test_weights_that_do_not_exist_end_up_with_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    file = write(
        f"models: [{{name: m, source: {tmp_path}/empty, pools: [{{device: cpu, num_cpus: 0}}]}}]\n"
        "gateway: {port: 0, num_cpus: 0}\n"
    )
    answer = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "up", "--config", file],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert answer.returncode == 1
    assert "holds no model" in only_line(answer.stderr)
    assert run(["status"]) == 1


def test_nothing_up_is_exit_code_1_for_status_and_fine_for_down(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["status"]) == 1
    assert capsys.readouterr().out == "not up\n"
    assert run(["status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["up"] is False
    assert run(["down"]) == 0


def test_chat_without_a_cluster_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "hi"]) == 1
    assert "./trireme up" in only_line(capsys.readouterr().err)


def test_chat_with_an_endpoint_that_is_gone_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert run(["chat", "hi", "--url", f"http://127.0.0.1:{port}/v1"]) == 1
    assert only_line(capsys.readouterr().err) == (
        f"error: nothing answers at http://127.0.0.1:{port}"
    )


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert capsys.readouterr().out.startswith("trireme 0.")


def test_help_comes_quickly_because_nothing_heavy_is_imported() -> None:
    script = (
        "import sys; from cluster.cli.app import run; run(['--help']); "
        "heavy = {'ray', 'vllm', 'torch', 'httpx', 'rich.console'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert answer.returncode == 0, answer.stderr
    assert "\x1b" not in answer.stdout
    assert "status" in answer.stdout
