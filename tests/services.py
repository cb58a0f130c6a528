"""Real servers for tests: Redis and PostgreSQL, each on a loopback port, gone at the end.

What is installed is used; on a CI machine the packages are fetched and unpacked.
"""

import functools
import importlib.util
import os
import platform
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from cluster.local_ray import free_ports

START_S = 30.0


@functools.cache
def _unpacked(packages: tuple[str, ...]) -> Path | None:
    """A folder with these packages' files, fetched once for all runs on a CI machine."""
    kept = Path(tempfile.gettempdir()) / f"trireme-{packages[0]}-{os.getuid()}"
    if not (kept / "done").exists():
        if os.environ.get("CI") != "true" or shutil.which("apt-get") is None:
            return None
        kept.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
        # Unpacked rather than installed: no service starts, and nobody has to be root.
        fetched = subprocess.run(
            ["apt-get", "download", "-qq", *packages], cwd=kept, check=False, capture_output=True
        )
        if fetched.returncode != 0:
            return None
        for package in kept.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(kept)], check=True)
        (kept / "done").touch()
    return kept


def _libraries(root: Path) -> dict[str, str]:
    libraries = root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries)}


class RedisServer:
    """A Redis that can be stopped and started again; ``keeps``: with what it held."""

    def __init__(self, folder: Path, *, keeps: bool = False) -> None:
        self._program, self._environ = redis_program()
        self._folder = folder
        self._keeping = ["--appendfsync", "always"] if keeps else []
        self._appending = "yes" if keeps else "no"
        (self.port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers."""
        args = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        args += ["--appendonly", self._appending, *self._keeping]
        self._process = subprocess.Popen(
            # The unpacked program is known by other names, and looks at the one it is called by.
            ["redis-server", *args, "--dir", str(self._folder)],
            executable=self._program,
            env=self._environ,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        client = redis.Redis.from_url(self.url, socket_timeout=1.0)
        _wait_until(lambda: bool(client.ping()), self._process)
        client.close()

    def stop(self) -> None:
        """At once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self, *, paused: bool) -> None:
        """Hold the process (it keeps its connections and answers nothing), or let it go on."""
        assert self._process is not None
        self._process.send_signal(19 if paused else 18)


def redis_program() -> tuple[str, dict[str, str]]:
    """The file, and the environment that it wants."""
    found = shutil.which("redis-server")
    if found is not None:
        return found, dict(os.environ)
    root = _unpacked(("redis-server", "redis-tools", "libjemalloc2", "liblzf1"))
    if root is None:
        pytest.skip("no Redis here (on Debian and Ubuntu: apt install redis-server)")
    # `redis-server` is a link to an absolute path; both programs are one file.
    return str(root / "usr" / "bin" / "redis-check-rdb"), _libraries(root)


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A fresh Redis."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _postgres_programs() -> Path:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else _carried_postgres()


def _carried_postgres() -> Path:
    """The programs that the package ``pgserver`` carries, where whoever runs them can get to."""
    found = importlib.util.find_spec("pgserver")
    if found is None or found.origin is None:
        pytest.skip("no PostgreSQL here (on Debian and Ubuntu: apt install postgresql)")
    kept = Path(tempfile.gettempdir()) / f"trireme-postgresql-{os.getuid()}"
    if not (kept / "done").exists():
        package = Path(found.origin).parent
        for folder in (package, package.with_name("pgserver.libs")):  # they refer to each other
            shutil.copytree(folder, kept / folder.name, dirs_exist_ok=True)
        kept.chmod(0o755)
        (kept / "done").touch()
    return kept / "pgserver" / "pginstall" / "bin"


def _unprivileged() -> dict[str, int | Sequence[int]]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@contextmanager
def postgres_server() -> Iterator[str]:
    """A fresh PostgreSQL; gives SQLAlchemy's URL of an empty database."""
    programs = _postgres_programs()
    identity = _unprivileged()
    # Not below pytest's folder, which only its owner can enter.
    folder = Path(tempfile.mkdtemp(prefix="trireme-pg-"))
    try:
        if identity:
            os.chown(folder, int(str(identity["user"])), int(str(identity["group"])))
        made = subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "trireme", "-A", "trust", "-N"],
            check=False, capture_output=True, text=True, cwd=folder, **identity,  # type: ignore[call-overload]
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        (port,) = free_ports(1)
        process = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder,
             "-h", "127.0.0.1", "-F"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
            start_new_session=True, **identity,  # type: ignore[call-overload]
        )  # fmt: skip
        try:
            dsn = f"host=127.0.0.1 port={port} user=trireme dbname=postgres"
            _wait_until(lambda: _connects(dsn), process)
            yield f"postgresql+psycopg://trireme@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(3)  # SIGQUIT: at once
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _connects(dsn: str) -> bool:
    with psycopg.connect(dsn, connect_timeout=2) as connection:
        return connection.execute("select 1").fetchone() == (1,)


def _wait_until(answers: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            if answers():
                return
        except (redis.ConnectionError, redis.TimeoutError, psycopg.OperationalError):
            pass
        assert process.poll() is None, "the server ended at its start"
        assert time.monotonic() < end, "the server does not answer"
        time.sleep(0.05)
