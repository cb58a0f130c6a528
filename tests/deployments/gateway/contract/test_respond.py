"""When the head of a response goes out, and what may still change then."""

from typing import Any

from cluster.errors import NoReplica
from deployments.gateway.context import RequestContext
from deployments.gateway.contract.respond import Reply
from deployments.gateway.contract.routes import find_route

HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
}
END = {"type": "http.response.body", "body": b"", "more_body": False}


def chunk(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True}


class Line:
    """One reply, and what it sent."""

    def __init__(self, path: str = "/v1/chat/completions", max_held_bytes: int = 1000) -> None:
        self.sent: list[Any] = []
        self.stopped = 0
        self.context = RequestContext("req_1", "m", "low", None, 10.0)
        self.reply = Reply(
            self._send,
            find_route("POST", path),
            self.context,
            max_held_bytes=max_held_bytes,
            clock=lambda: 10.0015,
            stop=self._stop,
        )

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    def _stop(self) -> None:
        self.stopped += 1

    async def feed(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            await self.reply(dict(message))


async def test_the_head_waits_for_the_first_token() -> None:
    line = Line()
    await line.feed(HEAD, chunk(b"1"))
    assert line.sent == []
    line.context.replica_id = "r1"
    line.context.settled = True
    await line.feed(chunk(b"2"))
    head, *chunks = line.sent
    assert dict(head["headers"])[b"x-trireme-replica"] == b"r1"
    assert [each["body"] for each in chunks] == [b"data: 1\n\n", b"data: 2\n\n"]
    assert line.reply.status is None
    await line.feed(END)
    assert line.reply.status == 200


async def test_what_is_held_is_bounded() -> None:
    line = Line(max_held_bytes=100)
    await line.feed(HEAD, chunk(b"x" * 60))
    assert line.sent == []
    await line.feed(chunk(b"y" * 60))
    assert len(line.sent) == 3


async def test_a_failure_while_the_head_waits_replaces_everything() -> None:
    line = Line()
    await line.feed(HEAD, chunk(b"1"))
    line.context.fail(NoReplica())
    await line.feed(chunk(b"2"), chunk(b"3"), END)
    assert [message.get("status") for message in line.sent] == [503, None]
    assert b"no_replica_ready" in line.sent[1]["body"]
    assert (line.reply.status, line.stopped) == (503, 1)


async def test_an_error_event_of_vllms_as_the_first_chunk_becomes_a_status() -> None:
    line = Line()
    event = b'{"error": {"message": "bad /usr/lib/x.py", "type": "E", "param": null, "code": 500}}'
    await line.feed(HEAD, chunk(event), END)
    assert line.sent[0]["status"] == 500
    assert b"/usr/lib" not in line.sent[1]["body"]


async def test_an_error_event_of_vllms_later_ends_the_stream_in_our_words() -> None:
    line = Line()
    line.context.settled = True
    event = b'{"error": {"message": "secret", "type": "E", "param": null, "code": 500}}'
    await line.feed(HEAD, chunk(b"1"), chunk(event), chunk(b"[DONE]"), END)
    bodies = b"".join(message.get("body", b"") for message in line.sent)
    assert b"secret" not in bodies
    assert bodies.count(b"[DONE]") == 1
    assert (line.reply.status, line.stopped) == (500, 1)


async def test_framework_bodies_become_error_objects() -> None:
    for body, words in (
        (b'{"detail":"Not Found"}', b"Not Found"),
        (b'{"error":"Unauthorized"}', b"Unauthorized"),
        (b"<html>", b"not valid"),
    ):
        line = Line()
        await line.feed({**HEAD, "status": 404}, {"type": "http.response.body", "body": body})
        assert line.sent[0]["status"] == 404
        assert words in line.sent[1]["body"]
        assert b'"type":"invalid_request_error"' in line.sent[1]["body"]


async def test_vllms_words_come_without_the_callers_long_values() -> None:
    line = Line()
    message = (
        "Unknown value '" + "v" * 200 + "' in request. (parameter=x, value='" + "v" * 99 + "')"
    )
    body = b'{"error":{"message":"' + message.encode() + b'","param":"body.x","code":400}}'
    await line.feed({**HEAD, "status": 400}, {"type": "http.response.body", "body": body})
    answer = line.sent[1]["body"]
    assert b"v" * 81 not in answer
    assert b'"param":"x"' in answer


async def test_an_application_that_answers_nothing_is_a_500() -> None:
    line = Line()
    await line.reply.finish(None)
    assert line.sent[0]["status"] == 500


async def test_nothing_is_sent_to_a_client_that_left() -> None:
    line = Line()
    line.reply.abandon()
    await line.feed(HEAD, chunk(b"1"), END)
    assert line.sent == []
    assert line.reply.status is None
