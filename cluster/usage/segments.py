"""Files of usage records: appended, checked, and taken over from a process that died.

A queue is a folder with numbered segments and a lock that lives as long as its process. A frame is
its length and CRC-32 (4 bytes each, little-endian) and a msgpack of (sequence, record); what a
crash tore off at the end of a segment is left out.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from cluster.usage.record import UsageRecord

_HEAD = struct.Struct("<II")
_LOCK = "lock"
MAX_FRAME_BYTES = 65_536

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, UsageRecord])

Numbered = tuple[int, UsageRecord]


def frames(entries: Iterable[Numbered]) -> bytes:
    """The bytes of these entries, to be appended."""
    parts: list[bytes] = []
    for entry in entries:
        payload = _encoder.encode(entry)
        parts += (_HEAD.pack(len(payload), zlib.crc32(payload)), payload)
    return b"".join(parts)


def read_segment(path: Path) -> tuple[list[Numbered], int]:
    """The entries of a segment, and how many of its bytes are none: the end, if it was torn off,
    and frames of another program."""
    data, entries, at, strange = path.read_bytes(), list[Numbered](), 0, 0
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        payload = data[at + _HEAD.size : at + _HEAD.size + length]
        if length > MAX_FRAME_BYTES or len(payload) < length or zlib.crc32(payload) != checksum:
            break
        try:
            entries.append(_decoder.decode(payload))
        except msgspec.DecodeError:
            strange += length
        at += _HEAD.size + length
    return entries, len(data) - at + strange


class QueueFolder:
    """A queue's folder, held by this process. ``source`` names it, and the records' origin."""

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        self.path = path
        self.source = path.name
        self._lock = lock

    @classmethod
    def make(cls, home: Path, gateway: str) -> "QueueFolder":
        """A new one, which nobody else ever had. Raises ``OSError``."""
        source = f"{gateway[-40:]}-{secrets.token_hex(4)}"
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Others look for folders without an owner, and must not find this one before it has one.
        hidden = home / f".{source}"
        hidden.mkdir(mode=0o700)
        lock = (hidden / _LOCK).open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        hidden.rename(home / source)
        return cls(home / source, lock)

    @classmethod
    def orphans(cls, home: Path) -> Iterator["QueueFolder"]:
        """Those whose process is gone; each is held from now on."""
        for path in sorted(home.iterdir()) if home.is_dir() else ():
            if path.name.startswith("."):
                continue
            try:
                lock = (path / _LOCK).open("r+b")
            except OSError:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            yield cls(path, lock)

    def segments(self) -> list[Path]:
        """In the order in which they were written."""
        return sorted(self.path.glob("*.seg"))

    def new_segment(self, number: int) -> IO[bytes]:
        """Raises ``OSError``."""
        made = (self.path / f"{number:012d}.seg").open("xb", buffering=0)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return made

    def release(self) -> None:
        """Give it up; whoever comes next takes what is left in it."""
        if not self.segments():
            shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._lock.close()
