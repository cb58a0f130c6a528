"""What the gateway knows of one HTTP request, from the door down to the fleet and back."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from cluster.config import Tier
from cluster.errors import TriremeError
from cluster.tenants.caller import Caller
from deployments.gateway.resume import Resume
from deployments.router.decisions import Decision


@dataclass(slots=True)
class Figures:
    """What a request has used, over all generations that it asked for (``n``). Seconds count from
    its arrival; None for what did not happen."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    analysis_tokens: int = 0
    placements: int = 0
    failovers: int = 0
    waited_s: float = 0.0
    first_token_s: float | None = None
    answer_s: float | None = None


@dataclass(slots=True)
class RequestContext:
    """One HTTP request. The door fills it in; the fleet writes what becomes of it.

    ``tools``: whether it offers tools to the model. ``decision`` is the router's last placement,
    told in a header if the client asks to ``explain`` it. ``asked_tier`` is set when ``tier`` is a
    lower one than the client asked for. ``ignored`` are fields that it sent and that the operator
    keeps to himself. ``service_tier`` is OpenAI's class of service that is used, and
    ``tells_service_tier`` whether the client asked for one. ``traceparent`` is what the client
    sent, and ``trace`` the request's span if it is traced. ``figures`` come with its first
    placement.

    ``caller`` is who sends it, None where callers are not told apart. ``cache_salt`` keeps its
    entries in the prefix caches apart from those of other groups of callers; empty: they are shared
    by all.

    ``meter`` is what it has used so far (see ``metering``), ``rate_limits`` the headers that tell
    what is left of its caller's limits. ``behind``: a limit is nearly used up, so it is served
    after others of its tier.

    ``ahead``: it goes before all requests that do not, whatever their tiers. ``spare``: it belongs
    to a batch, or asked for that, and is served when there is nothing else to do; no objective is
    kept for it.

    ``guarded``: engines look for loops in its replies because the operator wants it, not because
    it asks for that.

    ``resume`` is set if its stream can be taken up again, None otherwise.

    ``received_s`` is on the event loop's monotonic clock. ``settled`` turns true when the first
    token has come or the request has failed: until then the door holds the response head back, so
    that an error still gets its status and the head can name the replica.
    """

    request_id: str
    model: str
    tier: Tier
    effort: str | None
    received_s: float
    tools: bool = False
    explain: bool = False
    asked_tier: Tier | None = None
    ignored: tuple[str, ...] = ()
    service_tier: str = "default"
    tells_service_tier: bool = False
    route: str = ""
    traceparent: str = ""
    trace: Any = None
    figures: "Figures | None" = None
    caller: Caller | None = None
    cache_salt: str = ""
    meter: Any = None
    rate_limits: Mapping[str, str] = field(default_factory=dict)
    ahead: bool = False
    behind: bool = False
    spare: bool = False
    guarded: bool = False
    resume: Resume | None = None
    replica_id: str | None = None
    decision: Decision | None = None
    settled: bool = False
    failure: TriremeError | None = field(default=None)

    def fail(self, error: TriremeError) -> None:
        """The first failure of a request is the one that its client sees."""
        if self.failure is None:
            self.failure = error
        self.settled = True


current_request: ContextVar[RequestContext] = ContextVar("trireme_request")
"""Set by the door in the task that runs vLLM's handler; read where vLLM calls the fleet."""
