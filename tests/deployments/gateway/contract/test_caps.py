"""The cap on output tokens reaches vLLM only where the caller set no limit."""

from typing import Any

import pytest

from deployments.gateway.contract.caps import cap_output
from deployments.gateway.contract.routes import Kind


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("chat", {}, {"max_completion_tokens": 7}),
        ("chat", {"max_tokens": 90}, {"max_tokens": 90}),
        ("chat", {"max_completion_tokens": 90}, {"max_completion_tokens": 90}),
        ("chat", {"max_tokens": None}, {"max_tokens": None, "max_completion_tokens": 7}),
        ("responses", {}, {"max_output_tokens": 7}),
        ("responses", {"max_output_tokens": 3}, {"max_output_tokens": 3}),
        ("completions", {}, {}),
        ("messages", {"max_tokens": 5}, {"max_tokens": 5}),
        ("tokenize", {}, {}),
    ],
)
def test_the_cap_is_written_only_where_no_limit_is(
    kind: Kind, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    cap_output(kind, body, 7, 4096)
    assert body == expected


def test_without_a_cap_nothing_is_written() -> None:
    body: dict[str, Any] = {}
    cap_output("chat", body, None, 4096)
    assert body == {}


def test_a_cap_beyond_the_context_is_the_context() -> None:
    body: dict[str, Any] = {}
    cap_output("chat", body, 10_000, 4096)
    assert body == {"max_completion_tokens": 4096}
