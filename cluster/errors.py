"""Every error that Trireme raises on purpose.

Each error knows how it looks to an OpenAI client: the HTTP status, and the four keys of the OpenAI
error object. What the client may read is ``message``; anything else about the fault stays in
``str(error)`` and in its cause, for the log. Types follow OpenAI's vocabulary:
``invalid_request_error`` (the caller must change the request), ``rate_limit_error`` (too much work
for now) and ``server_error`` (our side failed).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

# A caller can put 100 kB into any field; an answer repeats at most this much of it.
_MAX_ECHO_CHARS = 80


def clipped(text: str, limit: int = _MAX_ECHO_CHARS) -> str:
    """`text`, cut to `limit` characters so that an error never sends a large input back."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _rebuild(
    kind: type["TriremeError"], args: tuple[Any, ...], state: dict[str, Any]
) -> "TriremeError":
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class TriremeError(Exception):
    """The root of the tree: an error with an HTTP status and an OpenAI error object.

    `message` is written for the client. `retry_after_s` is when a retry can succeed, in seconds;
    None when unknown.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    # False forbids the retry that SDKs make by themselves on 408, 409, 429 and 5xx; None leaves it
    # to them.
    may_retry: ClassVar[bool | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross Ray actors; subclasses have constructors of their own, so state travels
        # instead of arguments.
        return _rebuild, (self.__class__, self.args, dict(self.__dict__))

    def body(self) -> dict[str, dict[str, str | None]]:
        """The OpenAI error object, always with all four keys."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Response headers: `retry-after` in whole seconds (at least 1), `x-should-retry`."""
        headers: dict[str, str] = {}
        if self.retry_after_s is not None and math.isfinite(self.retry_after_s):
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.may_retry is False:
            headers["x-should-retry"] = "false"
        return headers


class InvalidRequest(TriremeError):
    """The request cannot be served as written; `param` names the field at fault."""

    status = 400
    type = "invalid_request_error"


class UnknownModel(InvalidRequest):
    """No model is served under the name that was asked for."""

    status = 404
    code = "model_not_found"

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        served = ", ".join(f"`{each}`" for each in known)
        hint = f" Served here: {served}." if served else ""
        super().__init__(f"The model `{clipped(name)}` does not exist.{hint}", param="model")


class UnknownResponse(InvalidRequest):
    """The caller's tenant has no such stored response."""

    status = 404

    def __init__(self, response_id: str, *, kept: bool = True) -> None:
        hint = "" if kept else " Responses are not stored here."
        super().__init__(f"Response with id '{clipped(response_id)}' not found.{hint}")


class UnknownObject(InvalidRequest):
    """The caller's tenant has no such file or batch."""

    status = 404

    def __init__(self, kind: str, object_id: str) -> None:
        super().__init__(f"No such {kind}: '{clipped(object_id)}'.", param="id")


class StreamGone(InvalidRequest):
    """Nobody has what the stream of a `Last-Event-ID` wrote: it was kept for too long, its replica
    is gone, or the request is not the same.

    404, as SDKs retry 409 by themselves, and another attempt finds no more than this one.
    """

    status = 404
    code = "stream_not_found"

    def __init__(self) -> None:
        super().__init__(
            "There is nothing to resume: the stream was not kept, or this request is not the one "
            "that it answered. Send the request without `Last-Event-ID` to start again."
        )


class StreamDiffers(InvalidRequest):
    """A resumed stream would not go on where the one before was cut."""

    status = 409
    code = "stream_differs"
    may_retry = False

    def __init__(self) -> None:
        super().__init__(
            "What was written again is not what the client has read. Send the request without "
            "`Last-Event-ID` to start again."
        )


class NotResumable(InvalidRequest):
    """`Last-Event-ID` on a request whose stream has no event ids."""

    code = "not_resumable"

    def __init__(self) -> None:
        super().__init__(
            "Only streamed chat completions with one choice and without log-probabilities or "
            "token ids can be resumed with `Last-Event-ID`."
        )


class UnknownRoute(InvalidRequest):
    """No such path."""

    status = 404
    code = "unknown_url"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"Unknown request URL: {clipped(method, 16)} {clipped(path)}.")


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not for this method; `allowed` goes into the `allow` header."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: Iterable[str] = ()) -> None:
        self.allowed = tuple(allowed)
        use = f" Use {' or '.join(self.allowed)}." if self.allowed else ""
        super().__init__(f"{clipped(method, 16)} is not allowed on {clipped(path)}.{use}")

    def headers(self) -> dict[str, str]:
        """As for every error, plus `allow`."""
        headers = super().headers()
        if self.allowed:
            headers["allow"] = ", ".join(self.allowed)
        return headers


class Unauthorized(InvalidRequest):
    """The request comes without credentials, or with ones that let nobody in.

    One code for all of it, as OpenAI's: whoever guesses keys is told nothing that helps.
    """

    status = 401
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """As for every error, plus `www-authenticate`, which HTTP asks for."""
        return {**super().headers(), "www-authenticate": "Bearer"}


class Forbidden(InvalidRequest):
    """Known credentials that do not allow this: a scope, a model or a tier that they have not."""

    status = 403
    code = "permission_denied"


class CallersUnknown(TriremeError):
    """The gateway has just started and its store is away, so that it knows nobody yet."""

    status = 503
    code = "callers_unknown"

    def __init__(self) -> None:
        super().__init__("This gateway cannot tell yet who may call it.", retry_after_s=2.0)


class UnsupportedMediaType(InvalidRequest):
    """The body is not `application/json`, or what else the route wants."""

    status = 415
    code = "unsupported_media_type"

    def __init__(self, content_type: str, wanted: str = "application/json") -> None:
        got = f"`{clipped(content_type)}`" if content_type else "no content type"
        super().__init__(f"The body must be sent as `{wanted}`; got {got}.")


class BodyTooLarge(InvalidRequest):
    """The body is over `gateway.max_body_bytes`."""

    status = 413
    code = "request_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request body is larger than {limit_bytes} bytes.")


class SlowRequest(InvalidRequest):
    """The body did not arrive in time. SDKs retry a 408 by themselves, which is right here."""

    status = 408
    code = "request_timeout"

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The request body did not arrive within {limit_s:.0f} s.")


class UrlTooLong(InvalidRequest):
    """Path and query together are longer than any route needs."""

    status = 414
    code = "url_too_long"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The URL is longer than {limit_bytes} bytes.")


class HeadersTooLarge(InvalidRequest):
    """The request's headers are over their limit, in number or in bytes."""

    status = 431
    code = "headers_too_large"

    def __init__(self, limit: int, limit_bytes: int) -> None:
        super().__init__(f"There may be {limit} headers with {limit_bytes} bytes in all.")


class AmbiguousHead(InvalidRequest):
    """Two servers could read the request's head in two ways: a header that stands there twice, a
    length beside chunks, no version of HTTP."""

    code = "invalid_http_request"

    def __init__(self) -> None:
        super().__init__("The request's head is not clear: send every header once.")

    def headers(self) -> dict[str, str]:
        """As for every error; what follows on the connection cannot be trusted either."""
        return {**super().headers(), "connection": "close"}


class ContextTooLong(InvalidRequest):
    """Prompt (and asked-for output) do not fit the model's context.

    The wording carries what client libraries search for: LiteLLM "maximum context length is",
    LangChain "prompt is too long" and "context_length_exceeded". Without it they do not shorten the
    history by themselves.
    """

    code = "context_length_exceeded"

    def __init__(self, limit_tokens: int, got_tokens: int, param: str | None = "messages") -> None:
        super().__init__(
            f"This model's maximum context length is {limit_tokens} tokens. However, your messages"
            f" resulted in "
            f"{got_tokens} tokens: the prompt is too long (context_length_exceeded).",
            param=param,
        )


class UnknownEffort(InvalidRequest):
    """A reasoning effort that is none of OpenAI's words.

    `param` is `reasoning.effort` on the Responses route.
    """

    code = "invalid_value"

    def __init__(self, effort: str, known: Iterable[str], param: str = "reasoning_effort") -> None:
        words = ", ".join(f"'{each}'" for each in known)
        super().__init__(
            f"Invalid value: '{clipped(effort)}'. Supported values are: {words}.", param=param
        )


class Overloaded(TriremeError):
    """Shed by admission: a queue is full, or the wait in it grew over the tier's limit.

    429 and not 503, because SDKs treat it as a rate limit and wait `retry_after_s` (the computed
    drain time of the queue) before they come back.
    """

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class RateLimited(TriremeError):
    """The caller is at a limit of its tenant or key that frees itself within a minute."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class OverLimit(RateLimited):
    """The prompt alone is longer than the tokens that its caller may use in a minute."""

    may_retry = False


class BudgetExhausted(TriremeError):
    """A day's or a month's budget of the caller is used up.

    OpenAI's type and code for it. The retries that SDKs make by themselves come within seconds, so
    they are forbidden.
    """

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    may_retry = False


class NoReplica(TriremeError):
    """No replica can take the request now: all are starting, draining or lost."""

    status = 503
    code = "no_replica_ready"

    def __init__(
        self,
        message: str = "No replica of this model is ready to take the request.",
        *,
        retry_after_s: float = 1.0,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class StoreAway(TriremeError):
    """The store does not answer, and the request cannot be served without it."""

    status = 503
    code = "store_unavailable"

    def __init__(self) -> None:
        super().__init__("The store does not answer. Try again.", retry_after_s=5.0)


class ReplicaLost(TriremeError):
    """The engine replica went away and the request could not be continued on another one.

    502, as the process that failed is behind the gateway, and a retry meets other replicas (SDKs
    retry 5xx). After the first byte the status is already sent, so the same body goes out as one
    `error` event of the stream.
    """

    status = 502
    code = "replica_lost"

    def __init__(
        self,
        message: str = "The replica that served this request was lost.",
        *,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class PoisonRequest(TriremeError):
    """Two engines died while they ran this request, the second time with no other suspect.

    The retry is forbidden: it would cost a third engine. The same request is refused for
    ``failover.quarantine_s``.
    """

    status = 500
    code = "poison_request"
    may_retry = False

    def __init__(
        self,
        message: str = "Engines have failed while serving this request. It will not be tried "
        "again for some time; please change it.",
    ) -> None:
        super().__init__(message)


class SlowReader(TriremeError):
    """The client does not read its stream; its connection is cut.

    503, though hardly anybody reads it: it stands in the log and in the metrics.
    """

    status = 503
    code = "slow_reader"
    may_retry = False

    def __init__(self, waited_s: float) -> None:
        super().__init__(f"The stream was not read for {waited_s:.0f} s and was ended.")


class DeadlineExceeded(TriremeError):
    """The deadline that came with the request passed before the reply was complete.

    504 and not 408: 408 says that the *client* was slow to send. SDKs retry both by themselves,
    with the same deadline and against the same load, so the retry is forbidden.
    """

    status = 504
    code = "deadline_exceeded"
    may_retry = False

    def __init__(
        self, message: str = "The request's deadline passed before the reply was complete."
    ) -> None:
        super().__init__(message)


class InternalError(TriremeError):
    """A fault of ours. The client reads a fixed sentence; `detail` and the cause are for the log
    only.

    The retry is forbidden: the same body usually meets the same fault, and SDKs would send it three
    times.
    """

    status = 500
    code = "internal_error"
    may_retry = False

    def __init__(self, detail: str = "") -> None:
        super().__init__("The server had an error while processing your request.")
        self.detail = detail

    def __str__(self) -> str:
        return self.detail or self.message


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with the configuration: where, what, and what to write instead."""

    path: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.problem}; {self.remedy}"


class ConfigError(TriremeError):
    """`trireme.yaml` or its overrides are wrong. `str()` is one line a fault, for the operator.

    It is raised before anything listens; should it meet a client all the same, the body tells
    nothing of the faults.
    """

    status = 500
    code = "internal_error"
    may_retry = False

    def __init__(self, faults: Iterable[Fault]) -> None:
        super().__init__("The server is not configured correctly.")
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults) or self.message
