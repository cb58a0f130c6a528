"""Which of Ray Serve's internals we lean on. When one of these fails, `deployments/compat/serve.py`
needs a change; our features are not at fault."""

import dataclasses
import inspect

from ray import serve
from ray.serve._private import constants, replica
from ray.serve._private.common import DeploymentID, DeploymentTargetInfo, RunningReplicaInfo
from ray.serve._private.long_poll import LongPollClient, LongPollNamespace


def test_serve_pushes_the_replicas_of_a_deployment_with_their_metadata() -> None:
    assert LongPollNamespace.DEPLOYMENT_TARGETS.name == "DEPLOYMENT_TARGETS"
    assert "running_replicas" in {f.name for f in dataclasses.fields(DeploymentTargetInfo)}
    fields = {f.name for f in dataclasses.fields(RunningReplicaInfo)}
    assert {"replica_id", "replica_metadata"} <= fields
    assert DeploymentID(name="engine-main", app_name="trireme").name == "engine-main"


def test_the_long_poll_client_takes_what_the_feed_gives_it() -> None:
    parameters = inspect.signature(LongPollClient.__init__).parameters
    assert list(parameters) == [
        "self",
        "host_actor",
        "key_listeners",
        "call_in_event_loop",
        "client_id",
    ]
    assert "is_running" in inspect.getsource(LongPollClient)


def test_serve_asks_replicas_for_metadata_and_gateways_for_their_app() -> None:
    assert constants.RECORD_REPLICA_METADATA_METHOD == "record_replica_metadata"
    assert replica.SERVE_BUILD_ASGI_APP_METHOD == "__serve_build_asgi_app__"
    assert inspect.signature(serve.ingress).parameters["app"].default is None
