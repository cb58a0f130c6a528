"""Which replica gets a request: the one that is predicted to finish it first (DESIGN §5.4)."""

import math
from dataclasses import dataclass
from zlib import crc32

from deployments.router.fleet import (
    BATCH_EXPONENT,
    DEFAULT_STEP_S,
    PREFILL_TOKENS_PER_S,
    Fleet,
    Replica,
    Request,
)
from deployments.router.predict import LengthPredictor

LEND_ADVANTAGE = 1.5
"""A pool lends when it would finish a request this many times sooner than the tier's own pools.

Hysteresis: with less, requests near the balance point would wander between pools."""

SPREAD = 0x9E3779B1
"""2^32 / golden ratio, odd: multiplying by it makes a fair hash of a CRC.

Alone, the CRCs of one request with several replicas differ by constants, and a few replicas would
win most ties."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Why a replica was (not) chosen: predicted seconds to the end, and what they are made of."""

    replica_id: str
    finish_s: float
    prefill_s: float
    decode_s: float
    in_flight: int
    lends: bool


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision, with the estimates of all replicas that had room."""

    chosen: Estimate
    considered: tuple[Estimate, ...]
    predicted_tokens: float


def has_room(replica: Replica, request: Request, predicted_tokens: float) -> bool:
    """Whether the replica can run the request beside what it has, to the end, unpreempted.

    An idle replica takes whatever fits its context: there is nobody to preempt.
    """
    if replica.refusing:
        return False
    if replica.in_flight == 0:
        return True
    if replica.in_flight >= replica.traits.max_num_seqs:
        return False
    return replica.kv_room() >= request.prompt_tokens + predicted_tokens


def estimate(
    replica: Replica, request: Request, predicted_tokens: float, assumed_step_s: float
) -> Estimate:
    """Predicted seconds until ``replica`` would have finished ``request``.

    Prefill of what already waits there and of this prompt, then one decode step a token at the
    batch size that the request would make. ``assumed_step_s`` is the time of a step of one request
    for a replica that has not made a step yet.
    """
    batch = replica.in_flight + 1
    step_s = (replica.unit_step_s or assumed_step_s) * math.pow(batch, BATCH_EXPONENT)
    prefill_s = (replica.awaiting_prefill + request.prompt_tokens) / PREFILL_TOKENS_PER_S
    decode_s = predicted_tokens * step_s
    return Estimate(
        replica_id=replica.traits.replica_id,
        finish_s=prefill_s + decode_s,
        prefill_s=prefill_s,
        decode_s=decode_s,
        in_flight=replica.in_flight,
        lends=request.tier not in replica.traits.tiers,
    )


def place(request: Request, fleet: Fleet, predictor: LengthPredictor) -> Placement | None:
    """The replica for ``request``, or None while every replica that may take it is full."""
    predicted = predictor.expected(request.tier, request.max_tokens)
    candidates = fleet.open_to(request.model, request.tier)
    # A replica without a step yet counts as quick as the quickest: taken for slower, a new one
    # would stay idle until all others are crowded.
    paces = (replica.unit_step_s for replica in candidates)
    assumed_step_s = min((pace for pace in paces if pace is not None), default=DEFAULT_STEP_S)
    considered = tuple(
        estimate(replica, request, predicted, assumed_step_s)
        for replica in candidates
        if has_room(replica, request, predicted)
    )
    if not considered:
        return None

    def cost(each: Estimate) -> tuple[float, int, int]:
        penalty = LEND_ADVANTAGE if each.lends else 1.0
        # Replicas that look the same (all idle, say) are told apart by the request, so that
        # several gateways do not pile onto the same one.
        digest = crc32(f"{request.request_id}/{each.replica_id}".encode())
        return each.finish_s * penalty, each.in_flight, digest * SPREAD & 0xFFFFFFFF

    return Placement(min(considered, key=cost), considered, predicted)
