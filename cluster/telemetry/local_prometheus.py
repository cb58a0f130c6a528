"""A real Prometheus beside a running cluster: its configuration, its targets, and what it says."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from cluster.run_state import FleetView
from cluster.telemetry.rules import rule_files

JOB = "trireme"
START_TIMEOUT_S = 30.0
ASK_TIMEOUT_S = 30.0


class NoPrometheus(Exception):
    """There is no Prometheus, or it did not start. ``str()`` is one line."""


@dataclass(frozen=True)
class Target:
    """A process to scrape. ``address`` is host and port of its listener for operators."""

    address: str
    deployment: str
    replica: str


def targets(view: FleetView) -> list[Target]:
    """Every process of the cluster that exports metrics."""
    found = [*view.replicas, *([] if view.autoscaler is None else [view.autoscaler])]
    return [Target(urlsplit(r.ops_url).netloc, r.deployment, r.replica_id) for r in found]


def write_targets(path: Path, found: Sequence[Target]) -> None:
    """The file that Prometheus discovers them by; replaced as a whole."""
    listed = [
        {
            "targets": [each.address],
            "labels": {"deployment": each.deployment, "replica": each.replica},
        }
        for each in found
    ]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(listed))
    fresh.replace(path)


def configuration(folder: Path, scrape_s: float) -> dict[str, Any]:
    """Scrapes what ``targets.json`` lists, and has all rules."""
    return {
        "global": {
            "scrape_interval": f"{round(1000 * scrape_s)}ms",
            "scrape_timeout": f"{round(900 * scrape_s)}ms",
            "evaluation_interval": f"{round(1000 * scrape_s)}ms",
        },
        "rule_files": [str(folder / name) for name in rule_files()],
        "scrape_configs": [
            {
                "job_name": JOB,
                "file_sd_configs": [
                    {"files": [str(folder / "targets.json")], "refresh_interval": "1s"}
                ],
            }
        ],
    }


class LocalPrometheus:
    """Runs in ``folder`` and listens on ``port`` of loopback, from ``start`` until ``stop``."""

    def __init__(self, folder: Path, port: int, program: str | None = None) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self._program = program or shutil.which("prometheus")
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(base_url=self.url, timeout=ASK_TIMEOUT_S, trust_env=False)

    def start(self, found: Sequence[Target], scrape_s: float = 1.0) -> None:
        """Raises ``NoPrometheus``."""
        if self._program is None:
            raise NoPrometheus(
                "prometheus is not installed (on Debian and Ubuntu: apt install prometheus)"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.update(found)
        for name, content in rule_files().items():
            for group in content["groups"]:
                group.pop("interval", None)
            (self.folder / name).write_text(yaml.safe_dump(content))
        settings = configuration(self.folder, scrape_s)
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        with (self.folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={self.folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address={urlsplit(self.url).netloc}",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "GOMAXPROCS": "1"},
            )
        self._wait_ready(self._process)

    def _wait_ready(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if self._http.get("/-/ready").status_code == 200:
                    return
            time.sleep(0.1)
        self.stop()
        raise NoPrometheus(f"prometheus did not start: see {self.folder / 'prometheus.log'}")

    def update(self, found: Sequence[Target]) -> None:
        """Scrape these from now on."""
        write_targets(self.folder / "targets.json", found)

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """Its value now, as Prometheus's API gives it. Raises ``ValueError`` for a bad query."""
        return self._result("/api/v1/query", {"query": expr})

    def ask_range(self, expr: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """Its values between two times (seconds since the epoch)."""
        told = {"query": expr, "start": f"{start}", "end": f"{end}", "step": f"{step_s}"}
        return self._result("/api/v1/query_range", told)

    def get(self, path: str, **params: str) -> Any:
        """Another question to its API: the answer's ``data``."""
        answer = self._http.get(f"/api/v1/{path}", params=params).json()
        if answer["status"] != "success":
            raise ValueError(answer.get("error", "no answer"))
        return answer["data"]

    def _result(self, path: str, params: dict[str, str]) -> list[dict[str, Any]]:
        answer = self._http.post(path, data=params).json()
        if answer["status"] != "success":
            raise ValueError(f"{answer.get('error')}: {params['query']}")
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._http.close()

    def __enter__(self) -> "LocalPrometheus":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def scraping(
    folder: Path, port: int, found: Sequence[Target], program: str | None = None
) -> Iterator[LocalPrometheus]:
    """A Prometheus that scrapes every second while the block runs."""
    with LocalPrometheus(folder, port, program) as prometheus:
        prometheus.start(found)
        yield prometheus
