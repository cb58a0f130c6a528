"""Every message that crosses the token channel, by direction.

The wire is length-prefixed MessagePack: a 4-byte big-endian payload length, then one tagged
array. Array-like structs keep a token at about six bytes, and a field may only ever be appended,
so a newer peer can still read an older one within the same ``PROTOCOL_VERSION``.
"""

import struct
from typing import Literal

import msgspec

PROTOCOL_VERSION = 1
HEADER = struct.Struct(">I")

FinishCode = Literal[0, 1, 2, 3, 4]
STOP, LENGTH, ABORTED, ERROR, REPETITION = range(5)
"""Finish reasons, in the order of vLLM's ``FinishReason`` (checked by the vLLM contract test)."""


class ProtocolError(Exception):
    """The peer sent something that this side cannot accept; the connection is closed."""


# --------------------------------------------------------------------------- gateway -> engine


class Hello(msgspec.Struct, array_like=True, tag="hello", frozen=True):
    """First frame of a gateway. ``secret`` is the cluster's channel secret. ``poisons``: it wants
    to hear of them."""

    protocol: int
    secret: str
    gateway_id: str
    poisons: bool = False


class Sampling(msgspec.Struct, array_like=True, frozen=True):
    """The sampling facts that every engine, and the router, can act on without vLLM."""

    max_tokens: int
    min_tokens: int = 0
    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()


class Submit(msgspec.Struct, array_like=True, tag="submit", gc=False):
    """Start generating for ``stream`` (a number that the gateway never reuses on a connection).

    ``request`` is vLLM's own ``EngineCoreRequest`` without the prompt, in vLLM's encoding; a
    simulated engine does not read it. ``priority``: lower is served first.

    ``emitted`` are tokens of the answer that an earlier replica wrote and the client has. The
    engine goes on with token number ``len(emitted)`` as if it had written them itself; everything
    else is as in the first attempt, and limits count from the beginning of the answer.

    ``suspect``: an engine has died with it. ``on_trial``: and now it shall be alone with that: a
    replica takes one such stream at a time, of all its gateways, and refuses others until that one
    has written some tokens.

    ``traceparent`` is the W3C trace context of the gateway's span, empty if nobody traces it.

    ``cache_salt``: its blocks in the prefix cache are for requests of the same salt only. It stands
    in ``request`` as well, for vLLM.

    ``journal`` names the tokens that it writes, for ``Recall``: they are kept until ``journal_s``
    seconds after its end. Empty: nothing is kept.
    """

    stream: int
    prompt_token_ids: list[int]
    sampling: Sampling
    priority: int
    tier: str
    request: bytes = b""
    emitted: list[int] = []
    on_trial: bool = False
    traceparent: str = ""
    cache_salt: str = ""
    journal: str = ""
    journal_s: float = 0.0
    suspect: bool = False


class Abort(msgspec.Struct, array_like=True, tag="abort", frozen=True):
    """Stop these streams and free what they hold. Unknown numbers are ignored."""

    streams: list[int]


class Ping(msgspec.Struct, array_like=True, tag="ping", frozen=True):
    """Heartbeat; answered by a ``Step`` without outputs."""


class Recall(msgspec.Struct, array_like=True, tag="recall", frozen=True):
    """What did the request of this ``journal`` write? Answered by ``Recalled`` with the same
    ``ask``. Only for replicas whose ``Welcome`` says that they keep journals."""

    ask: int
    journal: str


# --------------------------------------------------------------------------- both ways


class Poison(msgspec.Struct, array_like=True, tag="poison", frozen=True):
    """Engines have died of the request with this ``fingerprint``: no gateway lets another one like
    it through, for ``left_s`` seconds. Gateways tell it their replicas, and those the others."""

    fingerprint: str
    model: str
    tier: str
    request_id: str
    left_s: float


# --------------------------------------------------------------------------- engine -> gateway


class Load(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a replica holds right now; part of every frame that it sends.

    ``step_s`` is a moving average of the time of the engine's steps in which no prompt ended, in
    seconds: the pace of decoding. ``steps`` counts engine steps since the start, ``draining`` asks
    gateways to place nothing new. ``by_tier`` counts what it holds, running or waiting, of each
    tier in the order of ``TIERS``.
    """

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    kv_free_tokens: int = 0
    step_s: float = 0.0
    steps: int = 0
    draining: bool = False
    by_tier: tuple[int, int, int] = (0, 0, 0)


class Welcome(msgspec.Struct, array_like=True, tag="welcome", frozen=True):
    """Answer to ``Hello``: who this replica is. ``epoch`` changes with every engine start.

    ``exact_sampling``: it continues answers with the very tokens of an uncut one (``EngineInfo``).
    ``journals``: it understands ``Recall``; ``poisons``: it understands ``Poison``.
    """

    protocol: int
    replica_id: str
    epoch: str
    max_num_seqs: int
    max_model_len: int
    kv_tokens: int
    load: Load
    exact_sampling: bool = False
    journals: bool = False
    poisons: bool = False


class Output(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """New tokens of one stream in one step.

    ``cached_tokens`` comes with the first output (prompt tokens found in the prefix cache).
    ``details`` is vLLM's ``EngineCoreOutput`` in vLLM's encoding, only when it carries more than
    tokens (log-probabilities, for example).
    """

    stream: int
    tokens: list[int]
    finish: int | None = None
    stop_reason: int | str | None = None
    cached_tokens: int | None = None
    details: list[bytes] | None = None


class Step(msgspec.Struct, array_like=True, tag="step", gc=False):
    """One engine step for all streams of one gateway (or none: then it is a load report).

    ``yours`` counts that gateway's part of ``load.by_tier``.
    """

    load: Load
    outputs: list[Output]
    yours: tuple[int, int, int] = (0, 0, 0)


class Refused(msgspec.Struct, array_like=True, tag="refused", frozen=True):
    """The engine did not accept ``stream``.

    ``retryable`` tells a full or draining replica (place it elsewhere) from a faulty request.
    """

    stream: int
    message: str
    retryable: bool


class Died(msgspec.Struct, array_like=True, tag="died", frozen=True):
    """The last frame of a replica: its engine is dead, maybe of something that it was running.

    ``blameless``: it was asked or made to end, and nothing that it ran is to blame. ``trial`` is
    the stream of this gateway that was on trial, 0 for none.
    """

    message: str
    blameless: bool = False
    trial: int = 0


class Recalled(msgspec.Struct, array_like=True, tag="recalled", gc=False):
    """All tokens of a journal, from the first one of the answer. Not ``found``: there is none.

    ``finish`` and ``stop_reason`` are set if the engine ended the request by itself, and
    ``cached_tokens`` once its prompt is computed. ``lives``: the gateway that asked for it is still
    connected.
    """

    ask: int
    found: bool
    tokens: list[int] = []
    finish: int | None = None
    stop_reason: int | str | None = None
    cached_tokens: int | None = None
    lives: bool = False


FromGateway = Hello | Submit | Abort | Ping | Recall | Poison
FromEngine = Welcome | Step | Refused | Died | Recalled | Poison

encoder = msgspec.msgpack.Encoder()
_from_gateway: msgspec.msgpack.Decoder[FromGateway] = msgspec.msgpack.Decoder(FromGateway)
_from_engine: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


def encode(message: FromGateway | FromEngine) -> bytes:
    """One wire frame: length header and payload."""
    payload = encoder.encode(message)
    return HEADER.pack(len(payload)) + payload


def decode_from_gateway(payload: bytes | memoryview) -> FromGateway:
    """Raises ``ProtocolError`` for anything that is not a gateway's message."""
    try:
        return _from_gateway.decode(payload)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"not a frame of a gateway: {error}") from error


def decode_from_engine(payload: bytes | memoryview) -> FromEngine:
    """Raises ``ProtocolError`` for anything that is not an engine's message."""
    try:
        return _from_engine.decode(payload)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"not a frame of an engine: {error}") from error
