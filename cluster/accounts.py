"""What a gateway tells the autoscaler: one account of its own requests and of the replicas it sees.

Counts only ever grow while the gateway lives, so a lost or late account costs nothing but time: the
next one tells the rest. No prompt text and no tenant is in it.
"""

import msgspec

from cluster.config import Tier


class TierAccount(msgspec.Struct, frozen=True):
    """One tier of one model at this gateway.

    Grow: ``arrived`` (requests, those refused included), ``refused``, ``prompt_tokens`` and
    ``expected_tokens`` (of placed requests; the output as predicted at admission), ``placed``,
    ``answered`` (requests whose first token has come), ``first_in_time``, ``ended`` and
    ``paced_in_time`` (those that kept the tier's TPOT). Are now: ``queued``, ``queued_tokens`` and
    ``running_tokens`` (predicted output still to write), ``running``, ``oldest_wait_s``.
    ``first_s`` and ``pace_s`` are moving means of time to first token and time per output token.
    """

    model: str
    tier: Tier
    arrived: int = 0
    refused: int = 0
    placed: int = 0
    prompt_tokens: float = 0.0
    expected_tokens: float = 0.0
    answered: int = 0
    first_in_time: int = 0
    ended: int = 0
    paced_in_time: int = 0
    queued: int = 0
    queued_tokens: float = 0.0
    running: int = 0
    running_tokens: float = 0.0
    oldest_wait_s: float = 0.0
    first_s: float = 0.0
    pace_s: float = 0.0


class ReplicaAccount(msgspec.Struct, frozen=True):
    """A replica as the gateway sees it, requests of all gateways included.

    ``kv_use`` and ``kv_reserved`` are shares of its KV cache, in use and promised at the peak;
    ``pace`` is how much longer a step takes than the step model says.
    """

    replica_id: str
    model: str
    pool: str
    draining: bool = False
    in_flight: float = 0.0
    kv_use: float = 0.0
    kv_reserved: float = 0.0
    pace: float = 1.0
    step_s: float = 0.0
    max_num_seqs: int = 0
    kv_tokens: int = 0


class GatewayAccount(msgspec.Struct, frozen=True):
    """All that one gateway tells. ``gateway`` is unique to its process."""

    gateway: str
    tiers: tuple[TierAccount, ...] = ()
    replicas: tuple[ReplicaAccount, ...] = ()
