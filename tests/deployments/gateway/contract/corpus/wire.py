"""Requests that no client library would send, as bytes."""

from tests.deployments.gateway.contract.door_world import MODEL

BODY = b'{"model": "%s", "messages": [{"role": "user", "content": "hi"}]}' % MODEL.encode()


def post(
    *headers: bytes,
    body: bytes = BODY,
    path: bytes = b"/v1/chat/completions",
    version: bytes = b"HTTP/1.1",
    length: bool = True,
) -> bytes:
    """A request with ``headers`` besides the usual ones."""
    lines = [b"POST " + path + b" " + version, b"host: gateway", b"content-type: application/json"]
    if length:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, *headers, b"", body])


SMUGGLED = b"POST /v1/completions HTTP/1.1\r\nhost: gateway\r\n\r\n"
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)

SPLIT: dict[str, bytes] = {
    "two lengths that differ": post(b"content-length: 5"),
    "two lengths in one": post(b"content-length: %d, 5" % len(BODY), length=False),
    "two equal lengths": post(b"content-length: %d" % len(BODY)),
    "a length and chunks": post(b"transfer-encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "chunks and a length": post(
        b"transfer-encoding: chunked", b"content-length: 5", body=CHUNKED, length=False
    ),
    "chunks twice": post(
        b"transfer-encoding: chunked", b"transfer-encoding: chunked", body=CHUNKED, length=False
    ),
    "chunks under a false name": post(b"transfer-encoding: xchunked", body=CHUNKED, length=False),
    "chunks, then themselves": post(
        b"transfer-encoding: chunked, identity", body=CHUNKED, length=False
    ),
    "a chunk of a wrong size": post(
        b"transfer-encoding: chunked", body=b"zz\r\n" + BODY + b"\r\n0\r\n\r\n", length=False
    ),
    "a chunk of 2^64": post(
        b"transfer-encoding: chunked", body=b"10000000000000000\r\n" + BODY, length=False
    ),
    "a negative length": post(b"content-length: -1", length=False),
    "a length with a sign": post(b"content-length: +%d" % len(BODY), length=False),
    "a length in hexadecimal": post(b"content-length: 0x40", length=False),
    "a length of 100 digits": post(b"content-length: " + b"9" * 100, length=False),
}
"""Where one server sees one request and another sees two."""

HEADERS: dict[str, bytes] = {
    "a bare line feed in a header": post(b"x-a: b\nx-injected: 1\r\nx-c: d\ne: f"),
    "a bare carriage return in a header": post(b"x-a: b\rx-injected: 1"),
    "a NUL in a header": post(b"x-a: b\x00c"),
    "a control character in a header": post(b"x-a: b\x01\x1fc"),
    "a header on two lines": post(b"x-a: b\r\n c: d"),
    "a blank in front of the colon": post(b"transfer-encoding : chunked"),
    "a header without a name": post(b": value"),
    "a header with a blank in its name": post(b"x a: b"),
    "a line that is no header": post(b"nonsense"),
    "two hosts": post(b"host: elsewhere"),
    "101 headers": post(*[b"x-%d: y" % index for index in range(101)]),
    "headers of 40 kB": post(*[b"x-%d: %s" % (index, b"y" * 1000) for index in range(40)]),
    "one header of 70 kB": post(b"x-a: " + b"y" * 70_000),
    "10,000 headers": post(*[b"x-%d: y" % index for index in range(10_000)]),
    "an unknown encoding": post(b"content-encoding: gzip", body=b"\x1f\x8b\x08" + b"\x00" * 50),
    "another media type": post(b"content-type: text/plain"),
    "a web socket": post(
        b"connection: upgrade",
        b"upgrade: websocket",
        b"sec-websocket-version: 13",
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        body=b"",
        path=b"/v1/responses",
        length=False,
    ).replace(b"POST", b"GET", 1),
    "two credentials": post(b"authorization: Bearer a", b"authorization: Bearer b"),
}

LINES: dict[str, bytes] = {
    "a URL of 9 kB": post(path=b"/v1/chat/completions?" + b"x" * 9000),
    "a URL of 1 MB": post(path=b"/v1/chat/completions?" + b"x" * 1_000_000),
    "a path that climbs": post(path=b"/v1/../invocations"),
    "a path that climbs, in code": post(path=b"/v1/chat/completions/%2e%2e/%2e%2e/invocations"),
    "a path with a NUL": post(path=b"/v1/chat/completions%00"),
    "a path with another slash": post(path=b"//v1/chat/completions"),
    "a URL with a server in it": post(path=b"http://169.254.169.254/latest"),
    "a line feed in the URL": post(path=b"/v1/chat/completions\nx-a: b"),
    "a control character in the URL": post(path=b"/v1/chat\x01"),
    "a version that is none": post(version=b"HTTP/9.9"),
    "a method that is none": post().replace(b"POST", b"PO\x00ST", 1),
    "HTTP/2 without a warning": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 30,
    "TLS on a plain port": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 200,
    "a proxy's greeting": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + post(),
    "a tunnel": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: gateway\r\n\r\n",
    "a trace": b"TRACE / HTTP/1.1\r\nhost: gateway\r\n\r\n",
}

BODIES: dict[str, bytes] = {
    "no body": post(body=b""),
    "half a body of JSON": post(body=BODY[:-5]),
    "two bodies in one": post(body=BODY + BODY),
    "a list": post(body=b"[" + BODY + b"]"),
    "100,000 lists in lists": post(body=b"[" * 100_000),
    "500 levels": post(body=BODY[:-1] + b', "tools": ' + b"[" * 500 + b"]" * 500 + b"}"),
    "30,000 objects": post(body=BODY[:-1] + b', "tools": [' + b"{}," * 30_000 + b"{}]}"),
    "a number of 5,000 digits": post(body=BODY[:-1] + b', "seed": ' + b"9" * 5000 + b"}"),
    "a number that is none": post(body=BODY[:-1] + b', "temperature": NaN}'),
    "a number without end": post(body=BODY[:-1] + b', "temperature": 1e999}'),
    "half a character": post(body=BODY.replace(b"hi", b"\\ud800")),
    "bytes that are no text": post(body=BODY.replace(b"hi", b"\xff\xfe")),
    "a body in UTF-16": post(body=BODY.decode().encode("utf-16")),
    "a pickle": post(body=b"\x80\x05\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94."),
    "a body over the limit": post(body=BODY[:-1] + b', "x": "' + b"y " * 600_000 + b'"}'),
}

WIRE: dict[str, bytes] = {**SPLIT, **HEADERS, **LINES, **BODIES}
