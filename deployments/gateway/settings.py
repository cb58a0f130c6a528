"""What a gateway is told at its start. Light to import: the cluster's head process needs it too."""

from dataclasses import dataclass

from cluster.config import TriremeConfig


@dataclass(frozen=True)
class GatewaySettings:
    """``secret`` admits the gateway to the engines' channel servers.

    ``system_start_date`` is the date in every rendered system message, the same in all gateways.
    ``apart``: each pool is a Serve application of its own.
    """

    config: TriremeConfig
    secret: str
    system_start_date: str
    apart: bool = False
