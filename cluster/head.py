"""The head process: it holds Ray and the Serve application, and tells the supervisor of them.

Run as ``python -m cluster.head FD``. One line with a ``Job`` comes on standard input; ``Report``
lines go to the descriptor. When standard input ends, whoever wanted the cluster is gone, and so
are, moments later, this process and a Ray that it started. Keeping Ray out of the supervisor means
that no fault of Ray's can keep the supervisor from cleaning up.
"""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from cluster.config import PoolConfig, TriremeConfig
from cluster.hardware import Hardware
from cluster.local_ray import LocalRay, connect, serve_host
from cluster.run_state import DeploymentView, FleetView, ReplicaView

if TYPE_CHECKING:
    from deployments.compat.serve import ListedReplica

LOOK_S = 0.5
"""How often the application's state is read."""

SHUTDOWN_TIMEOUT_S = 10.0


class Job(msgspec.Struct, frozen=True):
    """What to bring up. ``config`` is a ``TriremeConfig`` as JSON; ``temp_dir`` is Ray's."""

    config: str
    hardware: Hardware
    secret: str
    system_start_date: str
    temp_dir: str


class Report(msgspec.Struct, frozen=True):
    """News for the supervisor: ``ray`` once it is up, then views; ``error`` is the last word."""

    ray: str = ""
    view: FleetView | None = None
    error: str = ""


class ClusterBroken(Exception):
    """The cluster cannot recover by itself; ``str()`` says what happened."""


class Head:
    """Brings up what ``job`` describes and reports until told to stop."""

    def __init__(self, job: Job, reports: IO[bytes]) -> None:
        self._job = job
        self._config = TriremeConfig.model_validate_json(job.config)
        self._reports = reports
        self._ray: LocalRay | None = None
        self._replicas: tuple[ReplicaView, ...] = ()
        self._autoscaler: ReplicaView | None = None

    def report(self, report: Report) -> None:
        self._reports.write(msgspec.json.encode(report) + b"\n")
        self._reports.flush()

    async def watch(self) -> None:
        """Report until standard input ends. Raises when the cluster is broken for good."""
        looking = asyncio.create_task(self._look())
        guarding = asyncio.create_task(self._guard_ray())
        stopping = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait([looking, guarding, stopping], return_when=asyncio.FIRST_COMPLETED)
        for failed in (guarding, looking):
            if failed.done():
                failed.result()
        if self._ray is None:
            # A Ray that others run must not keep our application. Our own goes as a whole, by the
            # supervisor: Serve would first drain every gateway for half a minute.
            from ray import serve

            deleting = asyncio.to_thread(serve.delete, self._config.name)
            await asyncio.wait_for(deleting, SHUTDOWN_TIMEOUT_S)

    def start(self) -> None:
        """Start Ray, or connect to it, and deploy. Ray wants the main thread for this."""
        config = self._config
        address = config.ray.address
        if address is None:
            self._ray = LocalRay(config, self._job.hardware, Path(self._job.temp_dir))
            address = self._ray.address
        connect(address, config.name, here=self._ray is not None)
        self.report(Report(ray=address))
        self._deploy()

    def _deploy(self) -> None:
        import ray
        from ray import serve

        from deployments.application import build_application

        gateway = self._config.gateway
        serve.start(
            proxy_location="HeadOnly" if self._ray is not None else "EveryNode",
            http_options={
                "host": gateway.host if self._ray is None else serve_host(gateway),
                "port": gateway.port,
            },
        )
        application = build_application(
            self._config,
            self._job.secret,
            self._job.system_start_date,
            gpus=ray.cluster_resources().get("GPU", 0) > 0,
        )
        settings = self._config.autoscaling
        targets = [
            serve.RunTarget(
                application,
                name=self._config.name,
                route_prefix="/",
                external_scaler_enabled=settings.enabled and settings.actuator == "external",
            )
        ]
        if settings.enabled:
            from autoscaling.deployment import application_name, build_autoscaler

            autoscaler = build_autoscaler(self._config)
            name = application_name(self._config.name)
            targets.append(serve.RunTarget(autoscaler, name=name, route_prefix=None))
        serve.run_many(
            targets,
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )

    async def _look(self) -> None:
        from deployments.compat.serve import ListedReplica, ReplicaFeed
        from deployments.names import applications

        def on_replicas(listed: list[ListedReplica]) -> None:
            self._replicas = tuple(
                ReplicaView(each.replica_id, each.deployment, each.metadata["ops_url"])
                for each in listed
                if "ops_url" in each.metadata
            )

        pools = (pool.name for _, pool in self._config.pools())
        listed = applications(self._config.name, pools, apart=False)
        ReplicaFeed(listed, on_replicas, f"trireme-head:{os.getpid()}").start()
        if self._config.autoscaling.enabled:
            from autoscaling.deployment import AUTOSCALER, application_name

            name = application_name(self._config.name)
            ReplicaFeed({AUTOSCALER: name}, self._on_autoscaler, "trireme-head").start()
        while True:
            self.report(Report(view=await asyncio.to_thread(self._view)))
            await asyncio.sleep(LOOK_S)

    def _on_autoscaler(self, listed: "list[ListedReplica]") -> None:
        there = [each for each in listed if "ops_url" in each.metadata]
        self._autoscaler = next(
            (ReplicaView(r.replica_id, r.deployment, r.metadata["ops_url"]) for r in there), None
        )

    async def _guard_ray(self) -> None:
        # Apart from `_look`, which a dead Ray leaves waiting for an answer.
        while True:
            dead = self._ray.dead() if self._ray is not None else []
            if dead:
                raise ClusterBroken(f"Ray's {', '.join(dead)} ended unexpectedly")
            await asyncio.sleep(LOOK_S)

    def _view(self) -> FleetView:
        from ray import serve

        found = serve.status().applications.get(self._config.name)
        if found is None:
            raise ClusterBroken("the Serve application was deleted")
        wanted = dict(self._wanted())
        return FleetView(
            time.time(),
            found.status.value,
            found.message,
            tuple(
                DeploymentView(
                    name,
                    each.status.value,
                    each.replica_states.get("RUNNING", 0),
                    wanted.get(name, 0),
                    each.message,
                )
                for name, each in found.deployments.items()
            ),
            self._replicas,
            self._autoscaler,
        )

    def _wanted(self) -> list[tuple[str, int]]:
        from deployments.names import GATEWAY, engine_deployment

        pools = [
            (engine_deployment(pool.name), self._size(pool)) for _, pool in self._config.pools()
        ]
        return [(GATEWAY, self._config.gateway.replicas), *pools]

    def _size(self, pool: PoolConfig) -> int:
        """What the autoscaler wants, or the fixed number."""
        if not self._config.autoscaling.enabled or pool.scaling is None:
            return pool.replicas
        from deployments.compat import board
        from deployments.names import wanted_key

        size = board.read_size(wanted_key(self._config.name, pool.name))
        return pool.replicas if size is None else size


def describe(error: BaseException) -> str:
    """The error in one line, without a traceback."""
    if isinstance(error, ClusterBroken):
        return str(error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{type(error).__name__}: {lines[-1].strip()}"


def main(descriptor: int) -> None:
    job = msgspec.json.decode(sys.stdin.readline(), type=Job)
    with os.fdopen(descriptor, "wb") as reports:
        head = Head(job, reports)
        try:
            head.start()
            # Not asyncio.run: before it returns, it waits for threads that a dead Ray, or standard
            # input, may hold for ever.
            asyncio.new_event_loop().run_until_complete(head.watch())
        except BaseException as error:
            head.report(Report(error=describe(error)))
            raise
        finally:
            # Ray's threads may not let an interpreter end; the supervisor takes care of the rest.
            sys.stdout.flush()
            sys.stderr.flush()
            _leave()


def _leave() -> None:
    error: Any = sys.exc_info()[1]
    if error is not None:
        import traceback

        traceback.print_exception(error)
        sys.stderr.flush()
    os._exit(0 if error is None else 1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
