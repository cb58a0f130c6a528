"""What an API key looks like: ``sk-trireme-<id>-<secret>``.

The id (12 letters and digits) finds the key and stands in logs; the secret has 256 bits. A prefix
of its own lets scanners of source code recognise a key that was published by mistake.
"""

import re
import secrets
from dataclasses import dataclass

from cluster.tenants.tables import KEY_ID_CHARS
from cluster.tenants.text import base62, random_text

PREFIX = "sk-trireme-"
SECRET_BYTES = 32
SECRET_CHARS = 43
"""Of base 62: 62^43 > 2^256."""

_ID_END = len(PREFIX) + KEY_ID_CHARS
KEY_CHARS = _ID_END + 1 + SECRET_CHARS
_KEY = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{KEY_ID_CHARS}}}-[0-9A-Za-z]{{{SECRET_CHARS}}}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. ``text`` is shown once and kept nowhere."""

    id: str
    text: str

    def __repr__(self) -> str:
        return f"NewKey({self.id})"


def make_key() -> NewKey:
    """A key that nobody had before."""
    key_id = random_text(KEY_ID_CHARS)
    return NewKey(key_id, f"{PREFIX}{key_id}-{base62(secrets.token_bytes(SECRET_BYTES))}")


def key_id_of(text: str) -> str | None:
    """The id in what may be a key; None for what has not its form."""
    if len(text) != KEY_CHARS or _KEY.fullmatch(text) is None:
        return None
    return text[len(PREFIX) : _ID_END]
