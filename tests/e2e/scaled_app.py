"""A small Ray of its own with deployments that follow `ReadWanted`; run by a test, prints JSON.

``python -m tests.e2e.scaled_app FOLDER``: one deployment's policy raises at every call, one reads
sizes that are written here, well formed and not.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve

from autoscaling.serve_policy import ReadWanted
from cluster.config import TriremeConfig
from cluster.hardware import Hardware
from cluster.local_ray import LocalRay, connect
from deployments.compat import board

CONFIG = TriremeConfig(name="policy")

WAIT_S = 40.0


class Raising(ReadWanted):
    """What the policy guards itself against, at every call."""

    def _keep_fetching(self) -> None:
        raise RuntimeError("no size today")


class Idle:
    """A replica that does nothing."""


def application(name: str, policy: Any, key: str) -> Any:
    return (
        serve.deployment(Idle)
        .options(
            name=name,
            ray_actor_options={"num_cpus": 0},
            autoscaling_config={
                "min_replicas": 1,
                "initial_replicas": 2,
                "max_replicas": 5,
                "upscale_delay_s": 0.0,
                "downscale_delay_s": 0.0,
                "policy": {"policy_function": policy, "policy_kwargs": {"key": key}},
            },
        )
        .bind()
    )


def running(app: str, deployment: str) -> int:
    found = serve.status().applications.get(app)
    if found is None or deployment not in found.deployments:
        return 0
    return int(found.deployments[deployment].replica_states.get("RUNNING", 0))


def reaches(app: str, deployment: str, size: int) -> bool:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if running(app, deployment) == size:
            return True
        time.sleep(0.2)
    return False


def write(key: str, told: object) -> None:
    board.write(key, told if isinstance(told, bytes) else json.dumps(told).encode())


def play() -> dict[str, bool]:
    found = {}
    deploy = {"blocking": False, "route_prefix": None}
    serve.run(application("broken", "tests.e2e.scaled_app:Raising", "none"), name="a", **deploy)
    reader = "autoscaling.serve_policy:ReadWanted"
    # With the first one's policy raising ten times a second, the controller still deploys.
    serve.run(application("reads", reader, "size"), name="b", **deploy)
    found["starts as told"] = reaches("b", "reads", 2) and reaches("a", "broken", 2)
    write("size", {"wanted": 4, "at_s": time.time()})
    found["grows in one step"] = reaches("b", "reads", 4)
    for nonsense in (b"\xff", {"wanted": -1, "at_s": 0}, {"wanted": "many"}, {}):
        write("size", nonsense)
        time.sleep(1.5)
    found["keeps its size on nonsense"] = running("b", "reads") == 4
    write("size", {"wanted": 1, "at_s": time.time() - 3600.0})
    time.sleep(2.5)
    found["keeps its size on old news"] = running("b", "reads") == 4
    write("size", {"wanted": 2, "at_s": time.time()})
    found["shrinks"] = reaches("b", "reads", 2)
    serve.run(application("late", reader, "never-written"), name="c", **deploy)
    found["the controller goes on"] = reaches("c", "late", 2)
    found["a raising policy keeps its size"] = running("a", "broken") == 2
    return found


def main(folder: str) -> None:
    ours = LocalRay(CONFIG, Hardware(cpus=2, memory_bytes=0), Path(folder) / "ray")
    connect(ours.address, CONFIG.name, here=True)
    serve.start(proxy_location="Disabled")
    print(json.dumps(play()), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
