"""A Serve configuration of the chart, then others, on a Ray of its own; prints JSON.

``python -m tests.helm.in_place FOLDER MANIFEST…``: each manifest's ``serveConfigV2`` is deployed by
the calls that Ray's dashboard makes when KubeRay sends it there. After each, a request is answered,
and the replicas that run are told, by deployment. Ray's settings are in the environment.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import ray
import yaml
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema

from cluster.config import TriremeConfig
from cluster.hardware import Hardware
from cluster.local_ray import LOOPBACK, LocalRay, connect
from tests.helm.toolbox import Tree, parsed, the

WAIT_S = 600.0
"""An engine of vLLM starts in there, on whatever machine this is."""


def schema_of(manifest: Path) -> Tree:
    """As rendered, but on loopback: a pod has its address to itself."""
    tree: Tree = yaml.safe_load(
        the(parsed(manifest.read_text()), "RayService")["spec"]["serveConfigV2"]
    )
    tree["http_options"]["host"] = LOOPBACK
    for application in tree["applications"]:
        config = application["args"]["config"]
        config.setdefault("telemetry", {})["host"] = LOOPBACK
    return tree


def deploy(tree: Tree) -> None:
    schema = ServeDeploySchema.model_validate(tree)
    options = schema.http_options.model_dump() | {"location": schema.proxy_location}
    serve_start(http_options=options).deploy_apps(schema)


def replicas(names: set[str]) -> dict[str, list[str]] | None:
    """The replicas of every deployment, once nothing is on its way any more."""
    found = serve.status().applications
    if set(found) != names or any(each.status != "RUNNING" for each in found.values()):
        return None
    deployments = [d for each in found.values() for d in each.deployments.items()]
    if any(set(each.replica_states) != {"RUNNING"} for _, each in deployments):
        return None
    listed: Any = ray.get(
        serve.context._get_global_client()._controller.get_serve_instance_details.remote()
    )
    return {
        name: sorted(replica["replica_id"] for replica in deployment["replicas"])
        for each in listed["applications"].values()
        for name, deployment in each["deployments"].items()
    }


def settled(names: set[str], within_s: float = WAIT_S) -> dict[str, list[str]]:
    ends = time.monotonic() + within_s
    last: dict[str, list[str]] | None = None
    while time.monotonic() < ends:
        time.sleep(1.0)
        now = replicas(names)
        if now is not None and now == last:
            return now
        last = now
    raise SystemExit(f"not settled within {within_s:.0f} s: {serve.status()}")


def ask(port: int, model: str) -> Tree:
    body: Tree = {"model": model, "messages": [{"role": "user", "content": "?"}], "max_tokens": 8}
    with httpx.Client(base_url=f"http://{LOOPBACK}:{port}", trust_env=False, timeout=120) as http:
        ends = time.monotonic() + WAIT_S
        while not http.get("/ready").is_success:
            if time.monotonic() > ends:
                raise SystemExit("no gateway became ready")
            time.sleep(0.5)
        answer = http.post("/v1/chat/completions", json=body)
    answer.raise_for_status()
    told: Tree = answer.json()
    return {"finish": told["choices"][0]["finish_reason"], "usage": told["usage"]}


def main(folder: Path, manifests: list[Path]) -> None:
    trees = [schema_of(each) for each in manifests]
    config = TriremeConfig.model_validate(trees[0]["applications"][0]["args"]["config"])
    ours = LocalRay(config, Hardware(cpus=8, memory_bytes=0), folder / "ray")
    connect(ours.address, "serve", here=True)
    seen = []
    for tree in trees:
        began = time.monotonic()
        deploy(tree)
        running = settled({each["name"] for each in tree["applications"]})
        settled_s = time.monotonic() - began
        answer = ask(config.gateway.port, config.models[0].name)
        seen.append({"replicas": running, "settled_s": round(settled_s, 1), "answer": answer})
    print(json.dumps(seen), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]])
