"""A cluster whose callers speak TLS: real Ray, Serve and HAProxy, and a certificate that is renewed
under way."""

import re
import shlex
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.e2e.running import Cluster, cluster, run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

MODEL = "gpt-oss-tiny"
SERVED_S = 20.0
"""On a machine that has much else to do; alone it takes some 2 s."""

HOST = "llm.example.com"
"""What the certificate is for. Nobody resolves it here: clients are told where it is."""


@dataclass
class Secured:
    cluster: Cluster
    folder: Path
    authority: trustme.CA

    def renew(self) -> bytes:
        """A new certificate, as callers see it."""
        made = self.authority.issue_cert(HOST)
        (self.folder / "tls.key").write_bytes(made.private_key_pem.bytes())
        (self.folder / "tls.crt").write_bytes(made.cert_chain_pems[0].bytes())
        return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())

    def client(self) -> httpx.Client:
        """Trusts the authority alone, and asks for the host's name."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return httpx.Client(base_url=self.cluster.url, verify=context, trust_env=False, timeout=30)

    def shown(self, client: httpx.Client) -> bytes:
        """The certificate of a new connection."""
        headers = {"connection": "close"}
        with client.stream("GET", "/health", headers=headers, extensions=NAMED) as answer:
            assert answer.status_code == 200
            found: bytes = (
                answer.extensions["network_stream"].get_extra_info("ssl_object").getpeercert(True)
            )
            return found


NAMED = {"sni_hostname": HOST}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    home = tmp_path_factory.mktemp("tls")
    made = Secured(Cluster(home, "tls", ""), home, trustme.CA())
    made.renew()
    pool = {
        "name": "main",
        "engine": "simulated",
        "simulated": {"output_sigma": 0, "output_tokens_mean": {"low": 60, "high": 20_000}},
    }
    config: dict[str, Any] = {
        "name": "tls",
        "models": [{"name": MODEL, "source": "tiny", "max_model_len": 32_768, "pools": [pool]}],
        "gateway": {
            "num_cpus": 0.3,
            "tls": {"cert_file": str(home / "tls.crt"), "key_file": str(home / "tls.key")},
        },
    }
    with cluster(home, config) as made.cluster:
        yield made


def body(tier: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Tell me of the sea."}]
    return {"model": MODEL, "stream": True, "reasoning_effort": tier, "messages": messages}


def test_commands_and_the_printed_line_speak_tls_and_plain_http_is_refused(
    secured: Secured,
) -> None:
    assert secured.cluster.status()["endpoint"] == f"{secured.cluster.url}/v1"
    said = run(secured.cluster.home, "chat", "Hello", "--tier", "low", name="tls")
    assert said.returncode == 0, said.stderr
    printed = re.search(r"^ *try +(curl .*)$", secured.cluster.said, re.M)
    assert printed is not None, secured.cluster.said
    assert HOST in printed[1]
    answer = subprocess.run(
        [*shlex.split(printed[1]), "--noproxy", "*"], capture_output=True, text=True, timeout=60
    )
    assert answer.stdout.rstrip().endswith("data: [DONE]"), answer.stderr
    plain = secured.cluster.url.replace("https:", "http:")
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{plain}/health", trust_env=False)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{secured.cluster.url}/health", trust_env=False)


def test_a_renewed_certificate_is_served_and_a_long_stream_goes_on(secured: Secured) -> None:
    with (
        secured.client() as client,
        client.stream(
            "POST", "/v1/chat/completions", json=body("high"), extensions=NAMED
        ) as stream,
    ):
        assert stream.status_code == 200
        lines = stream.iter_lines()
        next(lines)
        wanted = secured.renew()
        began = time.monotonic()
        heard = 0
        while secured.shown(client) != wanted:
            assert time.monotonic() - began < SERVED_S
            heard += bool(next(lines))
        took_s = time.monotonic() - began
        after = [line for line, _ in zip(lines, range(100), strict=False) if line]
        print(f"served after {took_s:.1f} s; the stream said {heard} things meanwhile")
        assert heard
        assert all(line.startswith(("data: {", ":")) for line in after)
