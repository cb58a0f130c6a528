"""The Serve deployment of the gateway: its HTTP app, and the fleet as Serve lists it."""

from collections.abc import Sequence
from typing import Any

from ray import serve

from cluster import heap
from cluster.logs import set_up_logging
from deployments.compat.serve import ListedReplica, ReplicaFeed, serves_log_kept
from deployments.gateway.settings import GatewaySettings
from deployments.names import GATEWAY, applications


class GatewayIngress:
    """One gateway. ``engines`` only ties engine deployments into the same Serve application."""

    async def __init__(  # type: ignore[misc]
        self, settings: GatewaySettings, engines: Sequence[Any] = ()
    ) -> None:
        del engines
        set_up_logging(settings.config.telemetry.log_level)
        context = serve.get_replica_context()
        with serves_log_kept():
            # Only here: vLLM takes 10 s to import, and Serve's controller reads this module too.
            from deployments.gateway.gateway import Gateway

            self._gateway = Gateway(settings, context.replica_id.unique_id)
            await self._gateway.start()
        pools = (pool.name for _, pool in settings.config.pools())
        listed = applications(context.app_name, pools, apart=settings.apart)
        del listed[GATEWAY]
        self._feed = ReplicaFeed(
            listed,
            self._on_replicas,
            f"trireme-gateway:{self._gateway.gateway_id}",
        )
        self._feed.start()
        heap.freeze()

    async def __serve_build_asgi_app__(self) -> Any:
        assert self._gateway.app is not None
        return self._gateway.app

    def _on_replicas(self, listed: list[ListedReplica]) -> None:
        self._gateway.update_members((replica.replica_id, replica.metadata) for replica in listed)

    async def record_replica_metadata(self) -> dict[str, Any]:
        return {"ops_url": self._gateway.ops.url}

    async def describe(self) -> dict[str, Any]:
        """What ``trireme status`` shows of this gateway."""
        return self._gateway.status()


# Without an argument: the app comes late, as vLLM's front-end takes seconds to build.
GatewayReplica = serve.ingress()(GatewayIngress)
