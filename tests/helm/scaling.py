"""The rendered cluster grows and shrinks: Trireme's autoscaler, Ray's, and pods without Kubernetes.

Run as ``unshare -m -n -p -f --mount-proc python -m tests.helm.scaling MANIFEST``, as root. The pods
are those of ``pods.py``. Beside the head runs the program that KubeRay puts there, Ray's autoscaler
with its KubeRay provider; the API that it asks is the stand-in, and ``kuberay.py`` makes pods and
deletes them. A step in load, streams, then nothing but the streams: one line of JSON says what was
seen.
"""

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.helm import pods
from tests.helm.kuberay import Operator, api_environment, ray_cluster
from tests.helm.pods import HTTP, NET, PROCESSES, Cluster, Pod, ops, say, until
from tests.helm.stand_in import StandIn, serving
from tests.helm.toolbox import NAMESPACE

HEAD = "the-head"
ENGINES = "engine-main"
CALM_PER_S, BUSY_PER_S = 1.0, 8.0
STREAMS, STREAM_TOKENS = 6, 3000
GRACE_S = 20.0
CERTIFICATES = Path("/run/api")
"""Every pod has a /tmp of its own; /run is one for all."""


class Places:
    """Prepared pods, as the machines that KubeRay's pods come to."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._at: dict[str, Pod] = {}
        self._ends: dict[str, threading.Thread] = {}
        self.hooks: list[int] = []

    def start(self, pod: str, group: str) -> None:
        taken = list(self._at.values())
        place = next(each for each in self._cluster.pod(group) if each not in taken)
        self._at[pod] = place
        name_pod(place, pod, group)
        self._cluster.start_pod(place)
        # Ray ends a node that it has drained, before its pod is deleted.
        PROCESSES.pop(place.name)
        say(f"{pod} made")

    def runs(self, pod: str) -> bool:
        return True

    def end(self, pod: str) -> None:
        say(f"{pod} deleted")
        self._ends[pod] = threading.Thread(target=self._end, args=(pod,), daemon=True)
        self._ends[pod].start()

    def _end(self, pod: str) -> None:
        place = self._at[pod]
        assert place.process is not None
        if place.process.poll() is None:
            self.hooks.append(self._cluster.pre_stop(place).returncode)
            place.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                place.process.wait(GRACE_S)
        self._cluster.kill(place)
        del self._at[pod]
        say(f"{pod} gone")

    def ended(self, pod: str) -> bool:
        return not self._ends[pod].is_alive()


def name_pod(place: Pod, name: str, group: str) -> None:
    """What KubeRay puts into every container, by which Ray knows whose node it is."""
    place.environment |= {
        "RAY_CLOUD_INSTANCE_ID": name,
        "RAY_NODE_TYPE_NAME": group,
        "RAY_enable_autoscaler_v2": "1",
    }


class Load:
    """Short requests, as many a second as ``per_s`` says, in a thread of their own."""

    def __init__(self, url: str, model: str) -> None:
        self.per_s = 0.0
        self.asked = 0
        self.failed: list[str] = []
        self._url, self._model, self._ended = url, model, False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._play()), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Returns when every request has its answer."""
        self._ended = True
        self._thread.join(120)

    async def _play(self) -> None:
        rng, tasks = random.Random(5), []
        limits = httpx.Limits(max_connections=1000)
        async with httpx.AsyncClient(
            base_url=self._url, limits=limits, timeout=120, trust_env=False
        ) as client:
            while not self._ended:
                if self.per_s:
                    tasks.append(asyncio.create_task(self._ask(client)))
                await asyncio.sleep(rng.expovariate(self.per_s) if self.per_s else 0.1)
            await asyncio.gather(*tasks)

    async def _ask(self, client: httpx.AsyncClient) -> None:
        self.asked += 1
        question = {"role": "user", "content": f"Question number {self.asked}."}
        body = {"model": self._model, "reasoning_effort": "low", "messages": [question]}
        try:
            (await client.post("/v1/chat/completions", json=body)).raise_for_status()
        except httpx.HTTPError as error:
            self.failed.append(repr(error))


def start_autoscaler(head: Pod, kubeconfig: Path, cluster: str) -> None:
    """As KubeRay starts it in the head's pod."""
    command = f"exec ray kuberay-autoscaler --cluster-name {cluster} --cluster-namespace "
    PROCESSES["autoscaler"] = subprocess.Popen(
        head.shell(f"{command}{NAMESPACE} --gcs-address {head.address}:6379"),
        env=head.environment | api_environment(kubeconfig),
        stdout=Path("autoscaler.log").open("wb"),  # noqa: SIM115
        stderr=subprocess.STDOUT,
    )


def failovers(gateway: Pod) -> int:
    """Streams that went on on another replica."""
    text = HTTP.get(f"http://{gateway.address}:9400/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("trireme_failovers_total{")]
    return round(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def play(cluster: Cluster, operator: Operator, url: str, model: str) -> dict[str, Any]:
    """The step in load, and the quiet after it."""

    def serving_engines() -> int:
        return sum(ops(pod) is not None for pod in cluster.pod(ENGINES))

    most = next(each for each in operator.groups if each["groupName"] == ENGINES)["maxReplicas"]
    began = len(operator.names(ENGINES))
    load = Load(url, model)
    load.per_s = CALM_PER_S
    time.sleep(5)
    load.per_s = BUSY_PER_S
    stepped = time.monotonic()
    until("as many engines as there may be", lambda: serving_engines() == most)
    grown = time.monotonic()
    say(f"{most} engines")
    seen: list[dict[str, Any]] = [{} for _ in range(STREAMS)]
    for each in seen:
        args = (url, model, STREAM_TOKENS, each)
        threading.Thread(target=pods.stream, args=args, daemon=True).start()
    until("the streams", lambda: all(each.get("chunks", 0) > 3 or "error" in each for each in seen))
    say(f"streams: {seen}")
    load.end()
    quiet, moved = time.monotonic(), failovers(cluster.pod("gateway")[0])
    say("quiet")
    until("one engine alone", lambda: serving_engines() == began)
    left = time.monotonic()
    say("one engine")
    until("the first pod to go", lambda: operator.deleted)
    running = sum("done" not in each for each in seen)
    say(f"{running} streams still run")
    until("all pods but one to go", lambda: len(operator.pods(ENGINES)) == began)
    shrunk = time.monotonic()
    until("the streams' ends", lambda: all("done" in e or "error" in e for e in seen))
    answer = pods.ask(url, model, "low")
    (group,) = [each for each in operator.groups if each["groupName"] == ENGINES]
    return {
        "engine pods": [began, most, len(operator.names(ENGINES))],
        "replicas": group["replicas"],
        "deleted": operator.deleted,
        "grown after s": round(grown - stepped, 1),
        "engines left after s": round(left - quiet, 1),
        "shrunk after s": round(shrunk - quiet, 1),
        "requests": load.asked,
        "failed": load.failed,
        "streams": seen,
        "streams when the first pod went": running,
        "streams moved": failovers(cluster.pod("gateway")[0]) - moved,
        "answer": answer,
    }


def told(cluster: Cluster, operator: Operator) -> str:
    """What to read when something did not happen."""
    head = cluster.pods[0]
    (group,) = [each for each in operator.groups if each["groupName"] == ENGINES]
    state: dict[str, Any] = {
        "replicas": group["replicas"],
        "scaleStrategy": group.get("scaleStrategy"),
        "made": operator.made,
        "deleted": operator.deleted,
        "serving": [pod.name for pod in cluster.pods if ops(pod) is not None],
        "applications": cluster.serve("status"),
    }
    with suppress(httpx.HTTPError, ValueError):
        state["decisions"] = HTTP.get(f"http://{head.address}:9400/decisions").json()[:20]
    lines = [json.dumps(state, indent=1)]
    logs = "/tmp/ray/session_latest/logs"
    for command in ("ray status -v", f"tail -n 60 {logs}/serve/controller_*.log"):
        done = subprocess.run(
            head.shell(command),
            env=head.environment | {"RAY_ADDRESS": f"{head.address}:6379"},
            capture_output=True,
            text=True,
            check=False,
        )
        lines += [f"$ {command}", done.stdout, done.stderr[-1000:]]
    for pod in cluster.pod(ENGINES):
        if pod.process is not None and pod.process.poll() is None:
            command = f"ls {logs}/serve; tail -n 25 {logs}/serve/*engine*.log"
            done = subprocess.run(pod.shell(command), capture_output=True, text=True, check=False)
            lines += [f"{pod.name}:", done.stdout]
    return "\n".join(lines)


def look_for_ever(operator: Operator, ended: threading.Event) -> None:
    while not ended.wait(0.5):
        operator.look()


def main(manifest: str) -> None:
    service = next(
        each for each in yaml.safe_load_all(Path(manifest).read_text())
        if each and each["kind"] == "RayService"
    )  # fmt: skip
    config = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]["config"]
    model = config["models"][0]["name"]
    spec = service["spec"]["rayClusterConfig"]
    # KubeRay's own, where its autoscaler is enabled.
    spec["headGroupSpec"]["rayStartParams"]["no-monitor"] = "true"
    cluster, api, ended = Cluster(service, up_to_max=True), StandIn(), threading.Event()
    api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    stored = ray_cluster(service)
    api.put(stored)
    name = stored["metadata"]["name"]
    places = Places(cluster)
    operator = Operator(api, name, places)
    head = cluster.pods[0]
    with ExitStack() as stack:
        stack.callback(cluster.close)
        cluster.prepare()
        name_pod(head, HEAD, "headgroup")
        cluster.start_pod(head)
        cluster.head_is_up()
        operator.add_head(HEAD)
        CERTIFICATES.mkdir()
        kubeconfig = stack.enter_context(serving(api, CERTIFICATES, host=f"{NET}.1", secured=True))
        stack.callback(ended.set)
        threading.Thread(target=look_for_ever, args=(operator, ended), daemon=True).start()
        start_autoscaler(head, kubeconfig, name)
        try:
            until("the deployment", lambda: cluster.serve("deploy"))
            say("deployed")
            url = f"http://{cluster.pod('gateway')[0].address}:{config['gateway']['port']}"
            until("readiness", lambda: HTTP.get(f"{url}/ready").is_success)
            say("ready")
            seen = play(cluster, operator, url, model)
        except SystemExit:
            Path("told.log").write_text(told(cluster, operator))
            raise
        print(json.dumps(seen | {"hooks": places.hooks}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
