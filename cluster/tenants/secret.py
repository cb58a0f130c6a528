"""The secret of the door, and what is derived from it. It is never in the store.

One secret, as several files or variables would be forgotten one by one; each use has a key of its
own, so that what one of them shows says nothing of the others.
"""

import contextlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cluster.tenants.text import BASE62

SECRET_VARIABLE = "TRIREME_ACCESS_SECRET"
"""Environment variable that holds it; counts less than ``access.secret_file``."""

LEAST_CHARS = 32


class BadSecret(ValueError):
    """There is no secret, or it is none that can be used. ``str()`` is one line."""


class DoorSecret:
    """``text`` is the secret; all gateways of a cluster must have the same."""

    def __init__(self, text: str) -> None:
        if len(text) < LEAST_CHARS:
            raise BadSecret(f"the access secret is shorter than {LEAST_CHARS} characters")
        self._pepper = self._derived(text, b"api keys")
        self._salts = self._derived(text, b"prefix cache")
        self.mark = self._derived(text, b"mark").hex()
        """By what the secret is recognised; it opens nothing."""

    @staticmethod
    def _derived(text: str, use: bytes) -> bytes:
        return hmac.digest(text.encode(), b"trireme: " + use, "sha256")

    def digest(self, key: bytes) -> bytes:
        """The keyed hash by which a key is stored."""
        return hmac.digest(self._pepper, key, "sha256")

    def cache_salt(self, group: str) -> str:
        """What the prefix caches tell the groups of callers apart by: nobody else can make it."""
        return hmac.digest(self._salts, group.encode(), "sha256").hex()


def read_secret(file: Path | None, environ: Mapping[str, str], made_at: Path) -> DoorSecret:
    """The secret of ``file``, else of the environment, else one of this machine's own.

    That one is made where there is none, at ``made_at``, which only its owner may read. Raises
    ``BadSecret``.
    """
    if file is not None:
        return DoorSecret(_text(file))
    given = environ.get(SECRET_VARIABLE)
    if given is not None:
        return DoorSecret(given.strip())
    with contextlib.suppress(FileExistsError):
        _make(made_at)
    return DoorSecret(_text(made_at))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadSecret(f"the access secret {file} cannot be read: {reason}") from error


def _make(file: Path) -> None:
    """Whole or not at all: another process may look for it at this moment."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as out:
                out.write("".join(secrets.choice(BASE62) for _ in range(64)) + "\n")
                out.flush()
                os.fsync(out.fileno())
            os.link(fresh, file)
        finally:
            fresh.unlink(missing_ok=True)
    except FileExistsError:
        raise
    except OSError as error:
        raise BadSecret(f"no access secret can be made at {file}: {error.strerror}") from error
