"""The Serve deployment of the gateway: its HTTP app, and the fleet as Serve lists it."""

from collections.abc import Sequence
from typing import Any

from ray import serve

from cluster.logs import set_up_logging
from deployments.compat.serve import ListedReplica, ReplicaFeed
from deployments.engine.channel.client import Endpoint
from deployments.gateway.door import Door
from deployments.gateway.fleet_client import Member
from deployments.gateway.gateway import Gateway, GatewaySettings
from deployments.names import engine_deployment


@serve.ingress()  # the app comes late: vLLM's front-end takes seconds to build
class GatewayReplica:
    """One gateway. ``engines`` only ties the engine deployments into the same Serve application."""

    async def __init__(  # type: ignore[misc]
        self, settings: GatewaySettings, engines: Sequence[Any]
    ) -> None:
        set_up_logging(settings.config.telemetry.log_level)
        del engines
        context = serve.get_replica_context()
        self._config = settings.config
        self._gateway = Gateway(settings, context.replica_id.unique_id)
        await self._gateway.start()
        self._pools = {pool.name: (model, pool) for model, pool in self._config.pools()}
        self._feed = ReplicaFeed(
            context.app_name,
            [engine_deployment(name) for name in self._pools],
            self._on_replicas,
            f"trireme-gateway:{self._gateway.gateway_id}",
        )
        self._feed.start()

    async def __serve_build_asgi_app__(self) -> Door:
        assert self._gateway.app is not None
        return self._gateway.app

    def _on_replicas(self, listed: list[ListedReplica]) -> None:
        members = []
        for replica in listed:
            metadata = replica.metadata
            if "port" not in metadata:
                continue  # Serve lists it before it has told where it listens
            model, pool = self._pools[metadata["pool"]]
            members.append(
                Member(
                    Endpoint(replica.replica_id, metadata["host"], metadata["port"]),
                    model.name,
                    pool.name,
                    frozenset(pool.tiers),
                    frozenset(pool.lends_to),
                )
            )
        self._gateway.fleet.update_members(members)

    async def record_replica_metadata(self) -> dict[str, Any]:
        return {"ops_url": self._gateway.ops.url}

    async def describe(self) -> dict[str, Any]:
        """What ``trireme status`` shows of this gateway."""
        return self._gateway.status()
