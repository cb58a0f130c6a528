"""What is known of a running cluster between commands: one small file for each cluster.

The supervisor holds a lock for as long as it lives, so "is it up" has an answer that neither
``kill -9`` nor a reused process id can falsify.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Literal, TypeVar

import msgspec

from cluster.config import LABEL_PATTERN

Phase = Literal["starting", "ready", "stopping"]

T = TypeVar("T", bound=msgspec.Struct)

_SETTLE_S = 0.05


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster, as its supervisor recorded it."""

    name: str
    cluster_id: str
    phase: Phase
    supervisor_pid: int
    run_dir: str
    url: str
    started_at: str
    config: str
    """Where the configuration came from: a path, or the words "built-in defaults"."""
    cert_file: str = ""
    """The gateway's certificate, where ``url`` is one of https."""


class DeploymentView(msgspec.Struct, frozen=True):
    """A deployment, as Ray Serve reports it."""

    name: str
    status: str
    running: int
    wanted: int
    message: str


class ReplicaView(msgspec.Struct, frozen=True):
    """A running replica and the base URL of its listener for operators."""

    replica_id: str
    deployment: str
    ops_url: str


class FleetView(msgspec.Struct, frozen=True):
    """The cluster as Ray Serve sees it at ``taken_at`` (seconds since the epoch)."""

    taken_at: float
    application: str
    message: str
    deployments: tuple[DeploymentView, ...] = ()
    replicas: tuple[ReplicaView, ...] = ()
    autoscaler: ReplicaView | None = None


def state_dir(environ: Mapping[str, str]) -> Path:
    """Where state files live: below ``TRIREME_HOME``, else in the user's state folder (XDG)."""
    home = environ.get("TRIREME_HOME")
    if home:
        return Path(home).absolute() / "state"
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "trireme"


def recorded(folder: Path) -> list[str]:
    """Names of the clusters that have a state file."""
    return sorted(
        path.stem for path in folder.glob("*.json") if re.fullmatch(LABEL_PATTERN, path.stem)
    )


class ClusterRecord:
    """The files of the cluster ``name`` in ``folder``."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.log_path = folder / f"{name}.log"
        self.failed_logs_path = folder / f"{name}.failed"
        self._state_path = folder / f"{name}.json"
        self._view_path = folder / f"{name}.view"
        self._lock_path = folder / f"{name}.lock"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[bool]:
        """Hold the cluster's lock; yields False, without waiting, when another holds it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock_path.open("w") as lock:
            # Someone may be looking at the lock just now, which takes a moment.
            mine = _locked(lock)
            if not mine:
                time.sleep(_SETTLE_S)
                mine = _locked(lock)
            yield mine

    def is_held(self) -> bool:
        """Whether a supervisor lives."""
        try:
            lock = self._lock_path.open("r+")
        except OSError:
            return False
        with lock:
            return not _locked(lock)

    def wait_released(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.is_held():
            if time.monotonic() > deadline:
                return False
            time.sleep(_SETTLE_S)
        return True

    def read(self) -> RunState | None:
        return _read(self._state_path, RunState)

    def write(self, state: RunState) -> None:
        _write(self._state_path, state)

    def read_view(self) -> FleetView | None:
        return _read(self._view_path, FleetView)

    def write_view(self, view: FleetView) -> None:
        _write(self._view_path, view)

    def clear(self) -> None:
        """Forget the cluster. The lock file stays: removing it would let two hold it."""
        self._state_path.unlink(missing_ok=True)
        self._view_path.unlink(missing_ok=True)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def _write(path: Path, value: msgspec.Struct) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(value))
    fresh.replace(path)
