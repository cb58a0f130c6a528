import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import (
    BodyTooLarge,
    ConfigError,
    ContextTooLong,
    DeadlineExceeded,
    Fault,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NoReplica,
    Overloaded,
    ReplicaLost,
    TriremeError,
    UnknownEffort,
    UnknownModel,
    UnknownRoute,
    UnsupportedMediaType,
)

EVERY_ERROR: list[TriremeError] = [
    InvalidRequest("`messages` is empty.", param="messages"),
    UnknownModel("gpt-9", ["gpt-oss-120b"]),
    UnknownRoute("GET", "/v2"),
    MethodNotAllowed("GET", "/v1/chat/completions", ["POST"]),
    UnsupportedMediaType("text/plain"),
    BodyTooLarge(4096),
    ContextTooLong(131_072, 140_000),
    UnknownEffort("extreme", ["low", "medium", "high"]),
    Overloaded("The high tier is full.", retry_after_s=12.3),
    NoReplica(),
    ReplicaLost(),
    DeadlineExceeded(),
    InternalError("KeyError: 'x' in placement"),
    ConfigError([Fault("a", "b", "c")]),
]


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_every_body_has_openais_four_keys_and_a_textual_code(error: TriremeError) -> None:
    body = error.body()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["message"]
    assert body["type"] in {"invalid_request_error", "rate_limit_error", "server_error"}
    assert (body["type"] == "invalid_request_error") == (error.status < 429)
    assert body["code"] is None or isinstance(body["code"], str)


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_errors_survive_the_way_between_processes(error: TriremeError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert copy.body() == error.body()
    assert copy.headers() == error.headers()
    assert str(copy) == str(error)


def test_statuses_are_those_that_openai_clients_expect() -> None:
    assert [error.status for error in EVERY_ERROR] == [
        *(400, 404, 404, 405, 415, 413, 400, 400),
        *(429, 503, 502, 504, 500, 500),
    ]


@given(st.floats(min_value=0, max_value=1e6))
def test_retry_after_is_a_whole_number_of_seconds_and_never_too_early(wait_s: float) -> None:
    header = Overloaded("full", retry_after_s=wait_s).headers()["retry-after"]
    assert int(header) >= max(1, wait_s)
    assert int(header) < wait_s + 2


def test_a_wait_that_never_ends_is_not_announced() -> None:
    assert "retry-after" not in Overloaded("full", retry_after_s=float("inf")).headers()


def test_a_context_overflow_is_recognised_by_langchain_and_litellm() -> None:
    message = ContextTooLong(131_072, 140_000).body()["error"]["message"]
    assert message is not None
    assert "context_length_exceeded" in message
    assert "prompt is too long" in message
    assert "maximum context length is 131072 tokens" in message


def test_a_huge_value_is_never_echoed_whole() -> None:
    huge = "x" * 100_000
    for error in (UnknownModel(huge), UnknownEffort(huge, ["low"]), UnknownRoute(huge, huge)):
        assert len(str(error.body())) < 500


def test_an_internal_error_tells_the_log_but_not_the_client() -> None:
    error = InternalError("secret path /srv/x")
    assert "secret" in str(error)
    assert "secret" not in str(error.body())
    assert error.headers()["x-should-retry"] == "false"


def test_only_hopeless_retries_are_forbidden() -> None:
    forbidden = {type(e) for e in EVERY_ERROR if e.headers().get("x-should-retry") == "false"}
    assert forbidden == {DeadlineExceeded, InternalError, ConfigError}


def test_a_method_that_is_not_allowed_names_those_that_are() -> None:
    assert MethodNotAllowed("GET", "/v1/responses", ["POST"]).headers()["allow"] == "POST"


def test_a_config_error_is_one_line_a_fault_and_hides_them_from_clients() -> None:
    error = ConfigError(
        [Fault("gateway.port", "0.5 does not fit", "write 1"), Fault("b", "c", "d")]
    )
    assert str(error).splitlines() == ["gateway.port: 0.5 does not fit; write 1", "b: c; d"]
    assert "gateway" not in str(error.body())
