"""The Serve applications of a cluster on Kubernetes, as the Helm chart's RayService names them.

``serveConfigV2`` carries the content of ``trireme.yaml`` as the arguments of these builders, so
that one object says all. The one thing that does not stand there is the channel's secret
(``SECRET_VARIABLE``).

Serve replaces every replica of an application whose arguments have changed. So each pool is an
application of its own, told only what its engines have to know: a changed tier, router or schedule
reaches gateways, and no engine loads its weights again. How many replicas there are stands beside
the arguments, and replaces none.

Each pod is one Ray node, for one gateway or one engine replica: it has one of the custom resource
that its replica asks for. So no gateway ever sits on a GPU node, and a pool keeps to its own nodes.
"""

import os
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict
from ray.serve import Application

from cluster.config import TriremeConfig
from deployments.application import build_gateways, build_pool
from deployments.compat import board
from deployments.names import GATEWAY, engine_deployment

SECRET_VARIABLE = "TRIREME_CHANNEL_SECRET"

PLACE_PREFIX = "trireme-"
"""A deployment's custom resource is this and its name: ``trireme-gateway``."""

AUTOSCALER = "autoscaling.deployment:build_autoscaler"
"""Where the autoscaler's application comes from; this room does not know that one."""


class Arguments(BaseModel):
    """``args`` of every application; a pool's ``config`` has that pool alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: TriremeConfig


def build(args: Arguments) -> Application:
    """Gateways. Raises ``KeyError`` where the channel's secret is not set."""
    config = args.config
    date = config.gateway.system_start_date or first_day(config.name)
    return build_gateways(config, os.environ[SECRET_VARIABLE], date, places(config))


def build_engines(args: Arguments) -> Application:
    """The engines of one pool. Raises ``KeyError`` where the channel's secret is not set."""
    config = args.config
    # Pods ask for GPUs by the same rule: every vLLM pool whose device is not `cpu`.
    return build_pool(config, os.environ[SECRET_VARIABLE], places(config), gpus=True)


def build_autoscaler(args: Arguments) -> Application:
    """The autoscaler, which sits on the head's node, where everything reaches it."""
    from ray._common.utils import import_attr

    application: Application = import_attr(AUTOSCALER)(args.config, apart=True)
    return application


def places(config: TriremeConfig) -> dict[str, str]:
    """The custom resource of each deployment."""
    names = [GATEWAY, *(engine_deployment(pool.name) for _, pool in config.pools())]
    return {name: PLACE_PREFIX + name for name in names}


def first_day(cluster: str) -> str:
    """The day on which the cluster was first deployed (UTC), whenever it is asked again.

    Kept where Ray's head keeps its own state: an update must not move the date in every prompt, as
    that would empty all prefix caches and replace all gateways.
    """
    key = f"{cluster}/system_start_date"
    known = board.read(key)
    if known is not None:
        return known.decode()
    today = datetime.now(UTC).date().isoformat()
    board.write(key, today.encode())
    return today
