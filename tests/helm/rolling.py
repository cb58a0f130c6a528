"""A cluster that is changed and loses parts under a steady load; prints what its clients saw.

``python -m tests.helm.rolling FOLDER AWAY_S MANIFEST MANIFEST MANIFEST``: the manifests'
``serveConfigV2`` are deployed one after another on a Ray with a Redis, as ``tests.helm.in_place``
does it. Then a gateway is killed, and then Ray's head is gone for ``AWAY_S`` seconds: the process
that keeps its state, Serve's controller, and Redis. One line of JSON, by phase.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import ray

from cluster.config import TriremeConfig
from cluster.hardware import Hardware
from cluster.local_ray import LOOPBACK, LocalRay, connect
from tests.helm.in_place import ask, deploy, schema_of, settled
from tests.helm.steady_load import Load
from tests.helm.toolbox import Tree
from tests.services import RedisServer

SETTLED_S = 400.0
GATEWAY = "gateway"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Trial:
    """The cluster and its load; each method is a phase."""

    def __init__(self, trees: list[Tree], folder: Path) -> None:
        self._trees = trees
        self._redis = RedisServer(folder, keeps=True)
        self._redis.start()
        os.environ["RAY_REDIS_ADDRESS"] = f"redis://{LOOPBACK}:{self._redis.port}"
        config = TriremeConfig.model_validate(trees[0]["applications"][0]["args"]["config"])
        ours = LocalRay(config, Hardware(cpus=8, memory_bytes=0), folder / "ray")
        self._node: Any = ours._node
        connect(ours.address, "serve", here=True)
        deploy(trees[0])
        self.replicas = self._settled()
        url = f"http://{LOOPBACK}:{config.gateway.port}"
        model = config.models[0]
        ask(config.gateway.port, model.name)
        self.load = Load(url, model.name, model.pools[0].simulated)
        self.load.start()
        self.seen: dict[str, Any] = {}

    def _settled(self) -> dict[str, list[str]]:
        return settled({each["name"] for each in self._trees[0]["applications"]}, SETTLED_S)

    def _replaced(self, phase: str) -> None:
        """Notes whose replicas are all new."""
        before, self.replicas = self.replicas, self._settled()
        new = [name for name, ids in self.replicas.items() if not set(ids) & set(before[name])]
        self.seen[f"{phase}: replaced"] = sorted(new)

    def begin(self, phase: str) -> None:
        say(phase)
        self.load.begin(phase)

    def change(self, phase: str, step: int) -> None:
        self.begin(phase)
        deploy(self._trees[step])
        self._replaced(phase)

    def _workers(self, title: str) -> list[psutil.Process]:
        (raylet,) = self._node.all_processes["raylet"]
        children = psutil.Process(raylet.process.pid).children(recursive=True)
        return [each for each in children if "".join(each.cmdline()).startswith(title)]

    def kill_a_gateway(self, phase: str) -> None:
        """Streams that cannot come back are not there then: they would be lost with it."""
        self.load.hold("streams")
        self.begin(phase)
        application = self._trees[0]["applications"][0]["name"]
        gateways = self._workers(f"ray::ServeReplica:{application}:{GATEWAY}")
        self.seen["gateways"] = len(gateways)
        time.sleep(1.0)
        gateways[0].kill()
        # Until Serve knows.
        while set(self._settled()[GATEWAY]) == set(self.replicas[GATEWAY]):
            time.sleep(1.0)
        self.replicas = self._settled()
        self.load.release("streams")

    def lose_the_head(self, phase: str, away_s: float) -> None:
        self.begin(phase)
        (controller,) = self._workers("ray::ServeController")
        self._node.kill_gcs_server()
        self._redis.stop()
        controller.kill()
        time.sleep(away_s)
        self.begin(f"{phase}, and back")
        self._redis.start()
        self._node.start_gcs_server()
        before = self.replicas
        self.replicas = self._settled()
        self.seen["kept through the head's absence"] = self.replicas == before
        (again,) = self._workers("ray::ServeController")
        self.seen["another controller"] = again.pid != controller.pid

    def close(self) -> None:
        self._redis.stop()


def main(folder: Path, away_s: float, manifests: list[Path]) -> None:
    trial = Trial([schema_of(each) for each in manifests], folder)
    try:
        trial.begin("nothing")
        time.sleep(2.0)
        trial.change("gateways replaced", 1)
        trial.change("engines replaced", 2)
        trial.kill_a_gateway("a gateway killed")
        trial.lose_the_head("the head gone", away_s)
        seen = trial.load.stop()
        print(json.dumps({"phases": seen, **trial.seen}), flush=True)
        ray.shutdown()
    finally:
        trial.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), [Path(each) for each in sys.argv[3:]])
