"""Ray's node table, as Trireme uses it: a node says that it will go, and Serve moves its replicas.

``drain`` is what ``ray drain-node`` does, whose interface Ray does not promise. Serve's controller
sees a draining node, starts each of its replicas elsewhere and then stops the old one gracefully.
"""

import time
from typing import Any


def drain(gcs_address: str, node_address: str, within_s: float, why: str) -> int:
    """Tell Ray that the nodes at ``node_address`` will be gone in ``within_s``.

    Returns how many there were. Raises when the head is away.
    """
    from ray import _raylet
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    # Compiled, so that nobody can say what is in it.
    compiled: Any = _raylet
    client = compiled.GcsClient(address=gcs_address)
    deadline_ms = round(1000 * (time.time() + within_s))
    # Not the other reason, IDLE_TERMINATION: a node that is busy would refuse it.
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    found = 0
    for node_id, node in client.get_all_node_info(timeout=10.0).items():
        if node.node_manager_address == node_address and node.state == 0 and not node.is_head_node:
            client.drain_node(node_id.hex(), reason, why, deadline_ms)
            found += 1
    return found
