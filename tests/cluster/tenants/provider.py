"""An identity provider for tests: real signatures, and a real HTTP server that publishes keys."""

import base64
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER = "https://login.example.com/"
AUDIENCE = "trireme"


class SigningKey:
    """A key of the provider's, RSA or EC."""

    def __init__(self, key_id: str, algorithm: str = "RS256") -> None:
        self.key_id = key_id
        self.algorithm = algorithm
        self._private: Any
        if algorithm.startswith("RS"):
            self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        else:
            self._private = ec.generate_private_key(ec.SECP256R1())

    def public_pem(self) -> bytes:
        pem: bytes = self._private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return pem

    def jwk(self) -> dict[str, Any]:
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        told: dict[str, Any] = json.loads(algorithm.to_jwk(self._private.public_key()))
        return {**told, "kid": self.key_id, "use": "sig", "alg": self.algorithm}

    def sign(self, claims: Mapping[str, Any], **head: Any) -> str:
        return jwt.encode(
            dict(claims), self._private, self.algorithm, headers={"kid": self.key_id, **head}
        )


def claims(**more: Any) -> dict[str, Any]:
    """Those of a good token; None takes one out."""
    now = time.time()
    usual = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "svc-web",
        "tenant": "acme",
        "iat": now,
        "exp": now + 600,
    }
    return {name: value for name, value in {**usual, **more}.items() if value is not None}


def unsigned(told: Mapping[str, Any]) -> str:
    """A token with ``alg`` none."""
    parts = (json.dumps({"alg": "none", "typ": "JWT", "kid": "one"}), json.dumps(told))
    return ".".join(base64.urlsafe_b64encode(p.encode()).rstrip(b"=").decode() for p in parts) + "."


class Provider:
    """Publishes ``keys`` at ``url``; ``status`` is what it answers with, ``asked`` how often."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = list(keys)
        self.status = 200
        self.asked = 0
        self.delay_s = 0.0
        self.more: list[dict[str, Any]] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                time.sleep(provider.delay_s)
                listed = [key.jwk() for key in provider.keys] + provider.more
                body = json.dumps({"keys": listed}).encode()
                self.send_response(provider.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
