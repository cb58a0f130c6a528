"""A few bytes that every process of a Ray cluster can read: Ray's internal key-value store.

It lives in Ray's head (and in its Redis, where Ray is made to survive the head), so what is written
outlives the process that wrote it.
"""

import json

from ray.experimental import internal_kv

NAMESPACE = "trireme"


def write(key: str, value: bytes) -> None:
    """Blocks until the head has it. Raises when the head is away."""
    internal_kv._internal_kv_put(key, value, overwrite=True, namespace=NAMESPACE)


def read(key: str) -> bytes | None:
    """Blocks; None where nothing was written. Raises when the head is away."""
    found: bytes | None = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
    return found


def read_size(key: str) -> int | None:
    """The size of a pool that the autoscaler has written there; None where none, or nonsense, is.
    Blocks. Raises when the head is away."""
    told = read(key)
    try:
        return None if told is None else int(json.loads(told)["wanted"])
    except (ValueError, TypeError, KeyError):
        return None
