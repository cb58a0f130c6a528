"""Pods without Kubernetes: a network namespace, an address and a /tmp each, on one bridge.

Run as ``unshare -m -n -p -f --mount-proc python -m tests.helm.pods MANIFEST``, as root. It starts
the head, the gateways and two pods of each engine group of a rendered RayService with the very
commands, environment and kernel settings that they have there, and deploys ``serveConfigV2`` by the
calls that Ray's dashboard makes when KubeRay sends it there. Then it asks for answers, runs an
engine pod's preStop hook in the middle of a stream, and takes the head and its Redis away under
load. One line of JSON says what was seen.

Not real here: images, mounts, limits of memory and CPU, NetworkPolicies, KubeRay, the dashboard.
"""

import contextlib
import json
import os
import resource
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.services import redis_program

ROOT = Path(__file__).resolve().parents[2]
NET = "10.77.0"
READY_S = 600.0
AWAY_S = 20.0
"""How long the head is gone. Ray gives up a head after ten minutes, as KubeRay sets it."""

# KubeRay raises it to 65,536; a machine may give less, and HAProxy then starts with fewer.
DESCRIPTORS = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
HTTP = httpx.Client(trust_env=False, timeout=60)


@dataclass
class Pod:
    """One of them. ``number`` is the last part of its address."""

    name: str
    number: int
    container: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        return f"{NET}.{self.number}"

    def shell(self, command: str) -> list[str]:
        """``kubectl exec``: with the pod's network and its /tmp, where Ray's sockets are."""
        assert self.process is not None
        inside = ["nsenter", "-t", str(self.process.pid), "-m", "-n"]
        return [*inside, "bash", "-c", f"cd /tmp/home && {command}"]


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def make_network(pods: list[Pod]) -> None:
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    Path("/run/netns").mkdir()
    run(*["ip", "link", "set", "lo", "up"])
    run(*["ip", "link", "add", "br0", "type", "bridge"])
    run(*f"ip addr add {NET}.1/24 dev br0".split())
    run(*["ip", "link", "set", "br0", "up"])
    for pod in pods:
        name = f"p{pod.number}"
        run("ip", "netns", "add", name)
        run(*f"ip link add v{pod.number} type veth peer name eth0 netns {name}".split())
        run(*f"ip link set v{pod.number} master br0 up".split())
        run(*f"ip -n {name} addr add {pod.address}/24 dev eth0".split())
        run(*f"ip -n {name} link set eth0 up".split())
        run(*f"ip -n {name} link set lo up".split())
        # Ray takes the address of the way out for its own.
        run(*f"ip -n {name} route add default via {NET}.1".split())


def environment(pod: Pod, given: dict[str, str]) -> dict[str, str]:
    """The container's, with what Kubernetes and KubeRay put in."""
    known = {"POD_IP": pod.address}
    for variable in pod.container["env"]:
        if "value" in variable:
            known[variable["name"]] = variable["value"].replace("$(POD_IP)", pod.address)
        elif "secretKeyRef" in variable["valueFrom"]:
            known[variable["name"]] = given[variable["name"]]
    # In the image, a command of the package.
    known["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(ROOT / "cluster" / "front.py")
    inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    known["RAY_SERVE_HAPROXY_MAXCONN"] = str(
        min(int(known["RAY_SERVE_HAPROXY_MAXCONN"]), DESCRIPTORS // 4)
    )
    folders = {"HOME": "/tmp/home", "TRIREME_HOME": "/tmp/home/cache", "HF_HOME": "/tmp/home/hf"}
    return {**inherited, **known, **folders, **given, "PYTHONPATH": str(ROOT)}


def start(
    pod: Pod, params: dict[str, str], head: str | None, sysctls: list[dict[str, str]]
) -> None:
    """``ray start`` as KubeRay writes it: parameters go through a shell as they are."""
    command = "ray start --head" if head is None else f"ray start --address={head}:6379"
    if head is None:
        # KubeRay's operator would ask it; here the same calls are made without it.
        command += " --include-dashboard=false"
    flags = (f"--{k}" if value == "true" else f"--{k}={value}" for k, value in params.items())
    command += " --block " + " ".join(flags)
    settings = " ".join(shlex.quote(f"{each['name']}={each['value']}") for each in sysctls)
    script = (
        "mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /dev/shm && "
        "mkdir /tmp/home && cd /tmp/home && "
        f"sysctl -qw {settings} && ulimit -n {DESCRIPTORS} || exit 1; "
        # Ray gives a node 30 s to start, which a busy machine may not keep. One that did start and
        # has ended stays so: KubeRay's pods are not restarted where its autoscaler is Ray's second.
        "trap 'kill $child; exit 0' TERM; "
        f"for try in 1 2 3 4; do began=$SECONDS; {command} & child=$!; wait $child; "
        "[ $((SECONDS - began)) -lt 40 ] || break; sleep 2; done"
    )
    log = Path(f"{pod.name}.log").open("wb")  # noqa: SIM115
    pod.process = subprocess.Popen(
        ["ip", "netns", "exec", f"p{pod.number}", "unshare", "-m", "bash", "-c", script],
        env=pod.environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    PROCESSES[pod.name] = pod.process


PROCESSES: dict[str, "subprocess.Popen[bytes]"] = {}


class Redis:
    """Where Ray's head keeps its state, on the bridge's own address."""

    PORT = 6390

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program, environ = redis_program()
        folder = ["--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(self.PORT), "--protected-mode", "no", *folder],
            executable=program,
            env=environ,
            stdout=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def ended() -> str:
    """A pod that should run and does not."""
    return next((name for name, each in PROCESSES.items() if each.poll() is not None), "")


def until(what: str, asked: Any, within_s: float = READY_S) -> Any:
    ends = time.monotonic() + within_s
    last: object = None
    while time.monotonic() < ends:
        try:
            if gone := ended():
                raise SystemExit(f"{what}: {gone} ended")
            found = asked()
            if found:
                return found
        except (httpx.HTTPError, KeyError) as error:
            last = error
        time.sleep(1.0)
    raise SystemExit(f"{what} did not happen within {within_s:.0f} s ({last})")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Cluster:
    """All pods of a RayService. ``up_to_max``: also those that its groups may get."""

    def __init__(self, service: dict[str, Any], *, up_to_max: bool = False) -> None:
        self.service = service
        spec = service["spec"]["rayClusterConfig"]
        groups = {each["groupName"]: each for each in spec["workerGroupSpecs"]}
        self._specs: dict[str, dict[str, Any]] = {"head": spec["headGroupSpec"]}
        self.pods = [Pod("head", 2, self._container("head"))]
        self.redis = Redis(Path.cwd())
        for name, group in groups.items():
            self._specs[name] = group
            # A spare engine pod, as the node autoscaler would add for the one that goes.
            count = 2 if name.startswith("engine-") else group["replicas"]
            for index in range(group["maxReplicas"] if up_to_max else count):
                number = 2 + len(self.pods)
                self.pods.append(Pod(f"{name}.{index}", number, self._container(name)))

    def _container(self, group: str) -> dict[str, Any]:
        container: dict[str, Any] = self._specs[group]["template"]["spec"]["containers"][0]
        return container

    def pod(self, group: str) -> list[Pod]:
        return [pod for pod in self.pods if pod.name.split(".")[0] == group]

    def start(self) -> None:
        self.prepare()
        for pod in self.pods:
            self.start_pod(pod)
            if pod is self.pods[0]:
                self.head_is_up()

    def prepare(self) -> None:
        """Network, Redis and what stands in each environment; no pod runs."""
        make_network(self.pods)
        self.redis.start()
        head = self.pods[0]
        given = {
            # What KubeRay makes of the manifest's gcsFaultToleranceOptions.
            "RAY_REDIS_ADDRESS": f"redis://{NET}.1:{Redis.PORT}",
            "RAY_external_storage_namespace": "trial",
            "TRIREME_CHANNEL_SECRET": secrets.token_hex(32),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "TRIREME_DATABASE_URL": "sqlite:////tmp/home/trireme.db",
            "TRIREME_ACCESS_SECRET": secrets.token_hex(32),
            "FQ_RAY_IP": head.address,
        }
        for pod in self.pods:
            pod.environment = environment(pod, given)

    def start_pod(self, pod: Pod) -> None:
        group = self._specs[pod.name.split(".")[0]]
        sysctls = group["template"]["spec"]["securityContext"]["sysctls"]
        head = self.pods[0]
        start(pod, group["rayStartParams"], None if pod is head else head.address, sysctls)

    def head_is_up(self) -> None:
        until("Ray's head", lambda: "Ray runtime started" in Path("head.log").read_text())
        say("head up")

    def lose_head(self) -> None:
        """At once, with all that runs there, and its Redis with it."""
        self.kill(self.pods[0])
        self.redis.stop()

    def kill(self, pod: Pod) -> None:
        """A node that is lost: nothing of it says goodbye."""
        PROCESSES.pop(pod.name, None)
        command = ["ip", "netns", "pids", f"p{pod.number}"]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        for pid in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def bring_head_back(self) -> None:
        """A new pod under the old address: KubeRay's Service keeps the name."""
        self.redis.start()
        self.start_pod(self.pods[0])
        self.head_is_up()

    def serve(self, action: str) -> dict[str, str]:
        """Runs ``python -m tests.helm.serve_client`` on the head; the state of applications."""
        head = self.pods[0]
        command = shlex.join([sys.executable, "-m", "tests.helm.serve_client", action])
        done = subprocess.run(
            head.shell(command),
            env=head.environment | {"RAY_ADDRESS": f"{head.address}:6379"},
            input=self.service["spec"]["serveConfigV2"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            say(f"{action}: {done.stderr[-2000:]}")
            return {}
        states: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return states

    def pre_stop(self, pod: Pod) -> "subprocess.CompletedProcess[str]":
        """The pod's hook, to its end."""
        hook = shlex.join(pod.container["lifecycle"]["preStop"]["exec"]["command"])
        return subprocess.run(
            pod.shell(hook), env=pod.environment, capture_output=True, text=True, check=False
        )

    def close(self) -> None:
        for pod in self.pods:
            if pod.process is not None:
                pod.process.terminate()
        self.redis.stop()


def ask(url: str, model: str, tier: str) -> str:
    body = {
        "model": model,
        "reasoning_effort": tier,
        "messages": [{"role": "user", "content": "?"}],
    }
    answer = HTTP.post(f"{url}/v1/chat/completions", json={**body, "max_tokens": 64})
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["finish_reason"])


def stream(url: str, model: str, tokens: int, seen: dict[str, Any]) -> None:
    body = {"model": model, "stream": True, "max_tokens": tokens, "reasoning_effort": "high"}
    body["messages"] = [{"role": "user", "content": "Count."}]
    body["stream_options"] = {"include_usage": True}
    try:
        with HTTP.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    seen["chunks"] = seen.get("chunks", 0) + 1
                    usage = json.loads(line[6:]).get("usage")
                    if usage:
                        seen["tokens"] = usage["completion_tokens"]
                elif line == "data: [DONE]":
                    seen["done"] = True
    except httpx.HTTPError as error:
        seen["error"] = repr(error)


def ops(pod: Pod) -> dict[str, Any] | None:
    try:
        status: dict[str, Any] = HTTP.get(f"http://{pod.address}:9400/status").json()
    except httpx.HTTPError:
        return None
    return status


def leave_in_the_middle(cluster: Cluster, url: str, model: str) -> dict[str, Any]:
    """A stream runs while the pod of its only engine goes; says what became of both."""
    engines = cluster.pod("engine-main")
    (old,) = [pod for pod in engines if ops(pod) is not None]
    (spare,) = [pod for pod in engines if pod is not old]
    seen: dict[str, Any] = {}
    running = threading.Thread(target=stream, args=(url, model, 3000, seen))
    running.start()
    until("the stream", lambda: seen.get("chunks", 0) > 3)
    started = time.monotonic()
    done = cluster.pre_stop(old)
    took_s = time.monotonic() - started
    away = ops(old) is None
    assert old.process is not None
    PROCESSES.pop(old.name).terminate()
    running.join(120)
    return {
        "hook": done.returncode,
        "said": done.stderr[-500:],
        "took_s": round(took_s, 1),
        "old is away": away,
        "spare serves": ops(spare) is not None,
        "stream": seen,
    }


def without_head(cluster: Cluster, url: str, model: str) -> dict[str, Any]:
    """Streams run and requests come while the head and its Redis are gone, and when they return."""
    streams: list[dict[str, Any]] = [{} for _ in range(4)]
    running = [threading.Thread(target=stream, args=(url, model, 3000, s)) for s in streams]
    for each in running:
        each.start()
    until("the streams", lambda: all(s.get("chunks", 0) > 3 for s in streams))
    cluster.lose_head()
    say("head and Redis gone")
    failed: list[str] = []
    asked = 0

    def ask_for(seconds: float) -> None:
        nonlocal asked
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            asked += 1
            try:
                ask(url, model, "low")
            except httpx.HTTPError as error:
                failed.append(repr(error))
            time.sleep(1.0)

    ask_for(AWAY_S)
    away = asked
    cluster.bring_head_back()
    until("Serve on the new head", lambda: set(cluster.serve("status").values()) == {"RUNNING"})
    say("Serve is back")
    ask_for(10.0)
    for each in running:
        each.join(120)
    # What only a head can do: a replica that is lost now is replaced.
    (old,) = [pod for pod in cluster.pod("engine-main") if ops(pod) is not None]
    cluster.kill(old)
    cluster.start_pod(old)
    until("a new engine", lambda: ops(old) is not None)
    return {
        "asked while away": away,
        "asked": asked,
        "failed": failed,
        "streams": streams,
        "a new engine": ask(url, model, "low") in ("stop", "length"),
    }


def main(manifest: str) -> None:
    service = next(
        each for each in yaml.safe_load_all(Path(manifest).read_text())
        if each and each["kind"] == "RayService"
    )  # fmt: skip
    config = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]["config"]
    model = config["models"][0]["name"]
    cluster = Cluster(service)
    try:
        cluster.start()
        # KubeRay asks again until it is done, too.
        until("the deployment", lambda: cluster.serve("deploy"))
        say("deployed")
        url = f"http://{cluster.pod('gateway')[0].address}:{config['gateway']['port']}"
        until("readiness", lambda: HTTP.get(f"{url}/ready").is_success)
        say("ready")
        result: dict[str, Any] = {"answers": {t: ask(url, model, t) for t in ("low", "high")}}
        result["applications"] = cluster.serve("status")
        result["gateway"] = ops(cluster.pod("gateway")[0]) is not None
        metrics = f"http://{cluster.pod('gateway')[0].address}:9400/metrics"
        result["requests counted"] = "trireme_requests_total" in HTTP.get(metrics).text
        result["autoscaler on head"] = ops(cluster.pods[0]) is not None
        result["leaving"] = leave_in_the_middle(cluster, url, model)
        result["without head"] = without_head(cluster, url, model)
        print(json.dumps(result), flush=True)
    finally:
        cluster.close()


if __name__ == "__main__":
    main(sys.argv[1])
