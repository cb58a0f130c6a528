"""How long the certificates that a process uses are good for."""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence

from cryptography import x509

log = logging.getLogger("trireme.certificates")


class Expiry:
    """The first end among all certificates in ``files`` (PEM), which are read again when they
    change. What cannot be read is taken to be as it was. Raises ``OSError`` or ``ValueError`` if
    the files cannot be read at the start."""

    def __init__(self, files: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        self._files = tuple(files)
        self._clock = clock
        self._stamps: tuple[int, ...] = ()
        self._ends = math.inf
        self._read()

    def left_s(self) -> float:
        """Seconds; negative once one has expired, +Inf without files."""
        try:
            self._read()
        except (OSError, ValueError) as error:
            # A certificate and its key are not renewed in one moment; the next look finds both.
            log.warning("certificates could not be read again: %s", error)
        return self._ends - self._clock()

    def _read(self) -> None:
        stamps = tuple(os.stat(file).st_mtime_ns for file in self._files)
        if stamps != self._stamps:
            self._ends = min((_first_end(file) for file in self._files), default=math.inf)
            self._stamps = stamps


def _first_end(file: str) -> float:
    with open(file, "rb") as opened:
        found = x509.load_pem_x509_certificates(opened.read())
    return min(each.not_valid_after_utc.timestamp() for each in found)
