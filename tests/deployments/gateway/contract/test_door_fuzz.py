"""No body, however strange, gets a 5xx, an echo of itself, or an error that is not well formed."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.gateway.contract.fields import PASSED, REFUSED, STRIPPED
from tests.deployments.gateway.contract.door_world import COMPLETION, ROUTES, World

pytestmark = pytest.mark.asyncio(loop_scope="session")

MARK = "ZQ" * 100
"""No piece of an input longer than 80 characters may come back in an error."""

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 200),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from([MARK, "", "auto", "text", "function", "user", "assistant", "high", "\x00"]),
)
KEYS = st.one_of(
    st.sampled_from(
        [
            *("type", "text", "role", "content", "name", "id", "function", "parameters"),
            *("tool_calls", "tool_call_id", "arguments", "input", "json_schema", "schema"),
            *("effort", "summary", "format", "output", "call_id", "tools", "thinking"),
        ]
    ),
    st.text(max_size=6),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool"])},
        optional={
            "content": VALUES | st.lists(st.fixed_dictionaries({"type": KEYS, "text": VALUES})),
            "tool_calls": VALUES,
            "tool_call_id": VALUES,
            "name": VALUES,
            "reasoning": VALUES,
            "type": KEYS,
        },
    ),
    min_size=1,
    max_size=3,
)

SCHEMAS = VALUES | st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(KEYS, VALUES, max_size=3)},
    optional={"required": VALUES, "description": VALUES, "enum": VALUES, "anyOf": VALUES},
)
FUNCTIONS = st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "get_weather"])},
    optional={
        "description": VALUES,
        "parameters": SCHEMAS,
        "input_schema": SCHEMAS,
        "strict": VALUES,
        "type": st.just("function"),
    },
)
TOOLS = st.lists(
    FUNCTIONS | st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTIONS}),
    max_size=2,
)
FORMATS = st.fixed_dictionaries(
    {"type": st.sampled_from(["json_schema", "json_object", "text"])},
    optional={"json_schema": SCHEMAS | st.fixed_dictionaries({"name": SCALARS, "schema": SCHEMAS})},
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    bodies = {**ROUTES, "/tokenize": COMPLETION}
    path = draw(st.sampled_from(list(bodies)))
    kind = {"/v1/chat/completions": "chat"}.get(path, path.rpartition("/")[2])
    names = sorted(PASSED[kind]) + sorted(REFUSED) + sorted(STRIPPED)  # type: ignore[index]
    extra = draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=4))
    body = {**bodies[path], **extra}
    for field in ("messages", "input"):
        if field in body and draw(st.booleans()):
            body[field] = draw(TURNS)
    if draw(st.booleans()):
        body["tools"] = draw(TOOLS)
    if draw(st.booleans()):
        body["response_format"] = draw(FORMATS)
    return path, body


def assert_well_formed(status: int, text: str) -> None:
    assert status in (200, 400, 404, 422), text
    assert status == 200 or MARK[:81] not in text
    if status == 200:
        return
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert len(error["message"]) <= 400
    assert all(isinstance(error[key], str | None) for key in ("param", "code"))


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(requests())
async def test_any_json_gets_a_status_below_500(
    front: World, request_of: tuple[str, dict[str, Any]]
) -> None:
    front.reset()
    path, body = request_of
    # A stream can only tell of a fault in vLLM by an event; the unary answer has its status.
    response = await front.post(path, {**body, "stream": False})
    assert_well_formed(response.status_code, response.text)
    assert len(front.done) == 1
    assert front.done[0][1] == response.status_code
    if front.core.requests and path not in ("/v1/completions", "/tokenize"):
        assert front.core.rendered_effort() == front.core.contexts[0].tier


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
async def test_any_bytes_get_a_status_below_500(front: World, data: bytes) -> None:
    front.reset()
    response = await front.http.post(
        "/v1/chat/completions", content=data, headers={"content-type": "application/json"}
    )
    assert_well_formed(response.status_code, response.text)
