"""What people watch a cluster with: `top`, the gateway's page, traces, logs and `observe`."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.telemetry.boards import boards
from tests.e2e.running import HTTP, Cluster, cluster, run
from tests.observability.chromium import page_after_scripts
from tests.observability.otlp_receiver import Received, Receiver, receiving
from tests.observability.prometheus_tools import program

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MODEL = "gpt-oss-tiny"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRET_WORD = "xylophonist"


def config(collector: str) -> dict[str, Any]:
    return {
        "name": "watched",
        "models": [
            {
                "name": MODEL,
                "source": "tiny",
                "max_model_len": 4096,
                "pools": [
                    {
                        "engine": "simulated",
                        "replicas": 2,
                        "num_cpus": 0.01,
                        "simulated": {
                            "step_ms": {"base": 20},
                            "output_tokens_mean": {"low": 30, "medium": 60, "high": 400},
                            "output_sigma": 0,
                        },
                    }
                ],
            }
        ],
        "gateway": {"num_cpus": 0.01},
        "telemetry": {"tracing": {"endpoint": collector, "share": 0}},
    }


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def running(collector: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home: Path = tmp_path_factory.mktemp("watched")
    with cluster(home, config(collector.url)) as made:
        yield made


def ask(running: Cluster, effort: str = "low", **headers: str) -> dict[str, Any]:
    """One chat; what it used."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Who is the {SECRET_WORD}?"}],
        "reasoning_effort": effort,
    }
    answer = HTTP.post(f"{running.url}/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    usage: dict[str, Any] = answer.json()["usage"]
    return usage


def until(found: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return value


def gateway_url(running: Cluster) -> str:
    url: str = running.status()["gateways"][0]["ops_url"]
    return url


def test_top_shows_tiers_replicas_and_kept_objectives(running: Cluster) -> None:
    ask(running)
    done = run(running.home, "top", "--once", "--json", name=running.name)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert [tier["tier"] for tier in shown["tiers"]] == ["low", "medium", "high"]
    low = shown["tiers"][0]
    assert low["kept"]["served"] == 1.0
    assert 0.0 <= low["kept"]["ttft"] <= 1.0
    assert {replica["state"] for replica in shown["replicas"]} == {"ok"}
    assert len(shown["replicas"]) == 2
    table = run(running.home, "top", "--once", name=running.name).stdout
    assert all(word in table for word in ("tiers", "replicas", "low", "medium", "high", "ok"))


def test_top_says_so_when_nothing_is_up(tmp_path: Path) -> None:
    done = run(tmp_path, "top", "--once", "--json")
    assert (done.returncode, json.loads(done.stdout)["up"]) == (1, False)
    assert run(tmp_path, "top", "--json").returncode == 2


def test_the_gateways_page_shows_the_same_in_a_browser(running: Cluster, tmp_path: Path) -> None:
    ask(running)
    url = gateway_url(running)
    answer = HTTP.get(f"{url}/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", answer.text)
    html, console = page_after_scripts(f"{url}/", tmp_path)
    assert console == ""
    assert re.search(r'id="state"[^>]*>ready<', html)
    for replica in running.status()["replicas"]:
        assert f">{replica['replica']}<" in html
    tiers = re.search(r'<tbody id="tiers">(.*?)</tbody>', html, re.S)
    assert tiers is not None
    assert [t for t in ("low", "medium", "high") if f">{t}<" in tiers[1]] == [
        "low",
        "medium",
        "high",
    ]


def test_one_trace_runs_through_the_processes(running: Cluster, collector: Receiver) -> None:
    usage = ask(running, "medium", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")

    def whole() -> dict[str, Received] | None:
        spans = {span.name: span for span in collector.spans if span.trace_id == TRACE}
        return spans if {"engine", f"chat {MODEL}"} <= spans.keys() else None

    spans = until(whole)
    root, attempt = spans[f"chat {MODEL}"], spans[f"generate {MODEL}"]
    assert root.parent_id == "00f067aa0ba902b7"
    assert attempt.parent_id == root.span_id
    assert spans["engine"].parent_id == attempt.span_id
    assert spans["engine"].service == "trireme-engine"
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert root.attributes["gen_ai.usage.output_tokens"] >= usage["completion_tokens"]
    told = json.dumps([span.attributes for span in spans.values()])
    assert SECRET_WORD not in told


def test_a_request_is_one_log_line_with_its_figures_and_no_text(running: Cluster) -> None:
    def lines() -> list[dict[str, Any]]:
        texts = [path.read_text(errors="replace") for path in log_files(running)]
        assert not any(SECRET_WORD in text for text in texts)
        told = [line for text in texts for line in text.splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, told) if line["logger"] == "trireme.request"]

    before = lines()
    usage = ask(running)
    (line,) = until(lambda: [line for line in lines() if line not in before])
    assert (line["outcome"], line["status"]) == ("ok", 200)
    assert (line["tier"], line["model"], line["route"]) == ("low", MODEL, "chat")
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert line["output_tokens"] > line["analysis_tokens"] > 0
    assert 0 <= line["waited_s"] <= line["first_token_s"] <= line["answer_s"] <= line["took_s"]


def log_files(running: Cluster) -> list[Path]:
    """What the cluster's processes have written to standard error."""
    from cluster.run_state import ClusterRecord

    state = ClusterRecord(running.home / "trireme" / "state", running.name).read()
    assert state is not None
    return list(Path(state.run_dir).glob("ray/session_2*/logs/worker-*.err"))


def test_observe_draws_every_dashboard(
    running: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(program("prometheus")).parent
    monkeypatch.setenv("PATH", f"{folder}:{Path('/usr/bin')}")
    for _ in range(3):
        ask(running)
    done = run(
        running.home, "observe", "--seconds", "8", "--pictures", str(tmp_path), name=running.name
    )
    assert done.returncode == 0, done.stderr
    drawn = sorted(path.name for path in tmp_path.glob("*.png"))
    assert drawn == sorted(f"{each.uid.removeprefix('trireme-')}.png" for each in boards())
    page = (tmp_path / "index.html").read_text()
    assert all(f'src="{name}"' in page for name in drawn)
