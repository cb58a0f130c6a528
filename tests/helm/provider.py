"""Ray's own KubeRay provider, a process of its own: it reads where the API is when it is imported.

A line of JSON in, one out: ``["types"]``, ``["launch", {group: count}]``, ``["terminate", [pod]]``,
``["pods"]``. What went wrong in a launch or an end comes with the next ``pods``.
"""

import itertools
import json
import sys
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer
from ray.autoscaler.v2.instance_manager.cloud_providers.kuberay.cloud_provider import (
    KubeRayProvider,
)


class Client:
    """What Ray's autoscaler does with the provider, by hand."""

    def __init__(self, cluster: str, namespace: str) -> None:
        self._config = AutoscalingConfigProducer(cluster, namespace)
        # Asked only for what this cluster does not have: resizing in place, ending when idle.
        self._provider = KubeRayProvider(cluster, self._config()["provider"], gcs_client=None)
        self._requests = map(str, itertools.count())

    def types(self) -> Any:
        return self._config()["available_node_types"]

    def launch(self, shape: dict[str, int]) -> None:
        self._provider.launch(shape, next(self._requests))

    def terminate(self, pods: list[str]) -> None:
        self._provider.terminate(pods, next(self._requests))

    def pods(self) -> Any:
        found = self._provider.get_non_terminated()
        return {
            "running": {name: each.node_type for name, each in found.items() if each.is_running},
            "pending": [name for name, each in found.items() if not each.is_running],
            "errors": [str(each) for each in self._provider.poll_errors()],
        }


def main(cluster: str, namespace: str) -> None:
    client = Client(cluster, namespace)
    for line in sys.stdin:
        name, *args = json.loads(line)
        print(json.dumps(getattr(client, name)(*args)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
