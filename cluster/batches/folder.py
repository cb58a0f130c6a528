"""Where the contents of files are: a folder of this machine, or an object store (fsspec)."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

FolderError = OSError
"""What every call may raise."""

BLOCK_BYTES = 1 << 20


class Folder:
    """Objects by name. ``url`` is a path, or what fsspec knows: ``s3://bucket/prefix``.

    Every call blocks. An object is there once its writer was closed without an error.
    """

    def __init__(self, url: str) -> None:
        self._fs: Any
        self._fs, self._root = url_to_fs(url)
        protocol = self._fs.protocol
        self._local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def create(self, name: str) -> "Writer":
        """A new object, which is there once the writer is closed."""
        if self._local:
            Path(self._root).mkdir(parents=True, exist_ok=True, mode=0o700)
        return Writer(self, name, self._fs.open(self._path(name), "wb"), self._local)

    def read(self, name: str, start: int, end: int) -> bytes:
        """Bytes from ``start`` to before ``end``."""
        found: bytes = self._fs.cat_file(self._path(name), start=start, end=end)
        return found

    def lines(self, name: str, max_bytes: int) -> Iterator[bytes]:
        """Line after line, with their ends. Of one longer than ``max_bytes``, a piece that is
        longer than that comes, and then nothing."""
        rest = b""
        with self._fs.open(self._path(name), "rb") as file:
            while block := file.read(BLOCK_BYTES):
                *whole, rest = (rest + block).split(b"\n")
                for line in whole:
                    yield line + b"\n"
                if len(rest) > max_bytes:
                    break
        if rest:
            yield rest

    def delete(self, name: str) -> None:
        """Nothing happens if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


class Writer:
    """Writes one object. Either ``close`` or ``discard`` must be called."""

    def __init__(self, folder: Folder, name: str, file: Any, local: bool) -> None:
        self._folder = folder
        self._name = name
        self._file = file
        self._local = local
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.size_bytes += len(data)

    def close(self) -> None:
        """Durable when it returns."""
        if self._local:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(Exception):
            # An object store begins no object that is not closed.
            (self._file.close if self._local else self._file.discard)()
        self._folder.delete(self._name)


def is_known(url: str) -> bool:
    """Whether fsspec has what the URL's protocol needs (S3 needs the package s3fs)."""
    protocol = url.partition("://")[0] if "://" in url else "file"
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError):
        return False
    return True
