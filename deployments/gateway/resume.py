"""What a client holds of a resumable stream: the id of the last event that it has.

An id says how much of each text was shown, not which event it was: how a front-end cuts text into
events depends on how busy it is. It needs no signature. It finds nothing without the tenant, the
body and 128 random bits of its request, and who changes the rest only garbles his own stream.
"""

import base64
import binascii
import re
import uuid
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated

import msgspec

from cluster.config import TIERS, Tier
from cluster.errors import InvalidRequest

NONCE_BYTES = 16
SEED_BITS = 63

MAX_ID_CHARS = 8_192
"""A stream with two texts needs some 70; each tool call adds 12."""

FOREIGN, OURS, UUID = range(3)
"""Forms of a request id: anything, the gateway's own, HAProxy's (which gives one to each request
that has none). A resumed stream keeps its id, as all chunks name it, if it is one of the latter."""

_OWN_ID = re.compile(r"req_([0-9a-f]{32})")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

NOT_ENDED, FINISHED, COUNTED = range(3)
"""Whether a client has read its stream's finish reason, and its usage after that."""


class Shown(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What a client has read. ``texts`` counts each text's characters, with a checksum of them;
    ``created`` is what the chunks say of when the stream began, and ``form`` tells how its request
    id is made of ``nonce``."""

    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    form: int
    tier: Annotated[int, msgspec.Meta(ge=0, lt=len(TIERS))]
    created: int
    ended: int
    texts: dict[str, tuple[int, int]]

    def event_id(self) -> bytes:
        return base64.urlsafe_b64encode(_encoder.encode(self)).rstrip(b"=")

    @property
    def served_tier(self) -> Tier:
        return TIERS[self.tier]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Shown)


def read_event_id(text: bytes) -> Shown:
    """Raises ``InvalidRequest`` for what is no id of ours."""
    try:
        if len(text) > MAX_ID_CHARS:
            raise ValueError("too long")
        raw = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        shown = _decoder.decode(raw)
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        shown = None
    if shown is None:
        raise InvalidRequest(
            "`Last-Event-ID` is not the id of an event of a resumable stream.",
            code="invalid_last_event_id",
        )
    return shown


@dataclass(slots=True)
class Resume:
    """One resumable request. ``keep_s``: what it writes is kept for so long after it was cut.
    ``shown`` is set when its client has come back."""

    nonce: bytes
    keep_s: float
    shown: Shown | None = None
    form: int = FOREIGN

    @property
    def seed(self) -> int:
        """The seed of a request that brings none: the same in every gateway."""
        digest = blake2b(self.nonce, digest_size=8, person=b"trireme-seed").digest()
        return int.from_bytes(digest) >> (64 - SEED_BITS)


def new_resume(request_id: str, keep_s: float) -> Resume:
    """Of a request that comes for the first time."""
    if own := _OWN_ID.fullmatch(request_id):
        return Resume(bytes.fromhex(own[1]), keep_s, form=OURS)
    if _UUID.fullmatch(request_id):
        return Resume(uuid.UUID(request_id).bytes, keep_s, form=UUID)
    return Resume(uuid.uuid4().bytes, keep_s)


def first_request_id(shown: Shown, request_id: str) -> str:
    """The id that a request had at first, or else ``request_id``, which it has now."""
    if shown.form == OURS:
        return f"req_{shown.nonce.hex()}"
    return str(uuid.UUID(bytes=shown.nonce)) if shown.form == UUID else request_id


def journal_name(secret: str, resume: Resume, tenant: str, fingerprint: str) -> str:
    """Under which engines keep what the request writes. Only gateways can make it, and only for the
    tenant and the request (its ``fingerprint``) that it was made for."""
    key = blake2b(secret.encode(), digest_size=32, person=b"trireme-journal").digest()
    digest = blake2b(resume.nonce, digest_size=16, key=key)
    digest.update(fingerprint.encode() + b"\0" + tenant.encode())
    return digest.hexdigest()
