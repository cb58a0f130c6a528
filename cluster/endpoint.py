"""A running cluster's HTTP endpoint, as a client sees it: one streamed chat."""

import json
import os
import shlex
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.config import Tier

CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 600.0
"""Longest wait for the next piece of an answer: a long queue, or a long prompt."""

Message = dict[str, str]


class EndpointError(Exception):
    """The endpoint could not be reached, or answered with an error. ``str()`` is one line."""


@dataclass
class Answer:
    """What is known of an answer once its stream has ended. Times are in seconds."""

    text: str = ""
    tier: str = ""
    replica: str = ""
    first_token_s: float | None = None
    took_s: float = 0.0
    usage: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A piece of an answer as it comes in; ``analysis`` is the model thinking."""

    text: str
    analysis: bool


API_KEY_VARIABLE = "TRIREME_API_KEY"
"""Environment variable with the key that is sent along, where the endpoint asks for one."""


def client(url: str, cert_file: str = "") -> httpx.Client:
    """``cert_file``: the certificate of our own gateways, which alone is trusted then."""
    timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    # A proxy from the environment must not stand between a command and its own machine.
    key = os.environ.get(API_KEY_VARIABLE)
    headers = {"authorization": f"Bearer {key}"} if key else None
    return httpx.Client(
        base_url=url,
        timeout=timeout,
        trust_env=False,
        headers=headers,
        # Reading authorities takes a while, and plain HTTP has nothing to verify.
        verify=_trust(cert_file) if url.startswith("https:") else False,
    )


def _trust(cert_file: str) -> ssl.SSLContext:
    """Which certificates are good: exactly that one, by whatever address it is reached; without it,
    those that authorities have signed (certifi's, or those of ``SSL_CERT_FILE``)."""
    if not cert_file:
        return httpx.create_ssl_context()
    try:
        first = x509.load_pem_x509_certificates(Path(cert_file).read_bytes())[0]
    except (OSError, ValueError) as error:
        raise EndpointError(f"{cert_file} cannot be read: {error}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # No authority has to stand behind it: who has its key is who was configured here.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    context.load_verify_locations(cadata=first.public_bytes(Encoding.PEM).decode())
    return context


def expires(cert_file: str) -> datetime:
    """When the certificate ends. Raises ``OSError``, ``ValueError``."""
    return x509.load_pem_x509_certificates(Path(cert_file).read_bytes())[0].not_valid_after_utc


def name_in(cert_file: str, host: str) -> str:
    """``host`` if the certificate is for it, else the first name that it is for. Raises
    ``ValueError`` if it is for none, ``OSError``."""
    found = x509.load_pem_x509_certificates(Path(cert_file).read_bytes())[0]
    try:
        kinds = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise ValueError(f"{cert_file} has no subject alternative names") from error
    names = kinds.get_values_for_type(x509.DNSName)
    addresses = [str(each) for each in kinds.get_values_for_type(x509.IPAddress)]
    plain = host.strip("[]")
    if plain in (*names, *addresses):
        return host
    # Any name fits in the place of a star.
    for name in (*(name.replace("*", "trireme") for name in names), *addresses):
        return f"[{name}]" if ":" in name else name
    raise ValueError(f"{cert_file} is for no host")


def model_names(url: str, cert_file: str = "") -> list[str]:
    """The models served at ``url``, each once: a name with a tier counts for its model."""
    with _errors_of(url), client(url, cert_file) as http:
        answer = http.get("/v1/models")
        _raise_for(answer)
        names = [str(model.get("root") or model["id"]) for model in answer.json()["data"]]
        return list(dict.fromkeys(names))


def chat(
    url: str, model: str, tier: Tier | None, messages: list[Message], cert_file: str = ""
) -> "Chat":
    """A streamed chat, started when it is iterated."""
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if tier is not None:
        body["reasoning_effort"] = tier
    return Chat(url, body, cert_file)


class Chat:
    """Iterates over the pieces of one answer; ``answer`` fills up meanwhile."""

    def __init__(self, url: str, body: dict[str, Any], cert_file: str = "") -> None:
        self._url = url
        self._body = body
        self._cert_file = cert_file
        self.answer = Answer()

    def __iter__(self) -> Iterator[Piece]:
        started = time.monotonic()
        with (
            _errors_of(self._url),
            client(self._url, self._cert_file) as http,
            http.stream("POST", "/v1/chat/completions", json=self._body) as response,
        ):
            if response.status_code != 200:
                response.read()
                _raise_for(response)
            self.answer.tier = response.headers.get("x-trireme-tier", "")
            self.answer.replica = response.headers.get("x-trireme-replica", "")
            for event in _events(response):
                yield from self._pieces(event, started)
        self.answer.took_s = time.monotonic() - started

    def _pieces(self, event: dict[str, Any], started: float) -> Iterator[Piece]:
        if "error" in event:
            raise EndpointError(str(event["error"].get("message", event["error"])))
        if event.get("usage"):
            self.answer.usage = event["usage"]
        for choice in event.get("choices", ()):
            delta = choice.get("delta", {})
            thought = delta.get("reasoning") or delta.get("reasoning_content") or ""
            said = delta.get("content") or ""
            if (thought or said) and self.answer.first_token_s is None:
                self.answer.first_token_s = time.monotonic() - started
            if thought:
                yield Piece(thought, analysis=True)
            if said:
                self.answer.text += said
                yield Piece(said, analysis=False)


def curl_line(url: str, model: str, *, keys: bool = False, cert_file: str = "") -> str:
    """A command that streams a short answer, to be pasted into a shell; ``keys``: it needs one.

    curl trusts ``cert_file`` then, and calls the gateway by a name that the certificate is for.
    """
    body = {
        "model": model,
        "stream": True,
        "reasoning_effort": "low",
        "messages": [{"role": "user", "content": "Say hello."}],
    }
    key = f'-H "authorization: Bearer ${API_KEY_VARIABLE}" ' if keys else ""
    trusting = ""
    if cert_file:
        host, _, port = url.removeprefix("https://").rpartition(":")
        name = name_in(cert_file, host)
        trusting = f"--cacert {shlex.quote(cert_file)} "
        if name != host:
            trusting += f"--connect-to '::{host}:{port}' "
            url = f"https://{name}:{port}"
    return (
        f"curl -N {trusting}{url}/v1/chat/completions {key}-H 'content-type: application/json' "
        f"-d {shlex.quote(json.dumps(body))}"
    )


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)


def _raise_for(response: httpx.Response) -> None:
    if response.status_code == 200:
        return
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = "no answer of ours; is something else listening there?"
    raise EndpointError(f"{message} (status {response.status_code})")


class _errors_of:
    """Turns httpx's errors about ``url`` into ``EndpointError``."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case httpx.ConnectError() if "[SSL" in str(error):
                raise EndpointError(
                    f"{self._url} is not trusted: {error} (SSL_CERT_FILE names authorities)"
                ) from error
            case httpx.ConnectError() | httpx.ConnectTimeout():
                raise EndpointError(f"nothing answers at {self._url}") from error
            case httpx.TimeoutException():
                raise EndpointError(f"{self._url} went silent") from error
            case httpx.HTTPError() | httpx.InvalidURL():
                what = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise EndpointError(f"{self._url}: {what}") from error
            case ValueError():
                raise EndpointError(f"{self._url} does not speak OpenAI's API") from error
