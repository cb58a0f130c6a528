"""The door with keys: who is let in, to what, and how others are told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.deployments.gateway.access_world import Callers
from tests.deployments.gateway.contract.door_world import (
    CHAT,
    MODEL,
    ROUTES,
    World,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

ANSWERED = {"/v1/chat/completions": CHAT, "/tokenize": {"model": MODEL, "prompt": "hi"}}


class Guarded:
    """The world's front-end behind a door that asks for keys."""

    def __init__(self, world: World, callers: Callers) -> None:
        self.world = world
        self.callers = callers
        self.done: list[Any] = []
        self.door = world.make_door(
            on_done=lambda context, status: self.done.append((context, status)),
            access=callers.identity,
        )
        transport = httpx.ASGITransport(self.door, raise_app_exceptions=True)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def post(self, path: str, body: Any, key: str = "", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            named["authorization"] = f"Bearer {key}"
        return await self.http.post(path, json=body, headers=named)


@pytest_asyncio.fixture(loop_scope="session")
async def guarded(world: World, tmp_path: Path) -> AsyncIterator[Guarded]:
    callers = Callers(tmp_path)
    yield Guarded(world, callers)
    callers.close()


@pytest.mark.parametrize("path", ROUTES)
async def test_a_key_gets_an_answer_and_its_caller_is_known(guarded: Guarded, path: str) -> None:
    made = guarded.callers.key(team="search", project="web")
    answer = await guarded.post(path, ROUTES[path], made.key.text)
    assert answer.status_code == 200, answer.text
    (context,) = guarded.world.core.contexts
    assert context.caller is not None
    assert (context.caller.tenant, context.caller.project) == ("acme", "web")
    assert context.cache_salt == guarded.callers.identity.cache_salt(context.caller)
    ((done, status),) = guarded.done
    assert (done is context, status) == (True, 200)


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        (None, "priority"),
        ("auto", "priority"),
        ("priority", "priority"),
        ("default", "default"),
        ("fast", "default"),
        ("flex", "flex"),
    ],
)
async def test_who_may_go_ahead_does_unless_it_asks_for_another_service_tier(
    guarded: Guarded, asked: str | None, used: str
) -> None:
    guarded.callers.tenant("first", priority=True)
    key = guarded.callers.key("first").key.text
    for path in ("/v1/chat/completions", "/v1/responses"):
        more = {} if asked is None else {"service_tier": asked}
        answer = await guarded.post(path, {**ROUTES[path], **more}, key)
        assert answer.status_code == 200, answer.text
        if asked is not None or path == "/v1/responses":
            assert answer.json()["service_tier"] == used
        context = guarded.world.core.contexts[-1]
        assert (context.ahead, context.spare) == (used == "priority", used == "flex")
    await guarded.post("/v1/messages", ROUTES["/v1/messages"], key)
    assert guarded.world.core.contexts[-1].ahead


async def test_who_goes_ahead_is_not_served_at_a_lower_effort(guarded: Guarded) -> None:
    guarded.world.served_instead = {"high": "medium"}
    body = {**CHAT, "reasoning_effort": "high"}
    for name, tier in (("first", "high"), ("other", "medium")):
        guarded.callers.tenant(name, priority=name == "first")
        key = guarded.callers.key(name).key.text
        answer = await guarded.post("/v1/chat/completions", body, key)
        assert answer.headers["x-trireme-tier"] == tier


async def test_credentials_go_no_further_than_the_door(guarded: Guarded) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    guarded.door._apps = {MODEL: app}
    key = guarded.callers.key().key.text
    await guarded.post("/tokenize", ANSWERED["/tokenize"], key, x_api_key=key, cookie="a=b")
    assert seen
    assert not {b"authorization", b"x-api-key", b"cookie"} & {name for name, _ in seen}
    assert key.encode() not in b"".join(value for _, value in seen)


async def test_without_a_key_the_body_is_not_read_before_the_answer(guarded: Guarded) -> None:
    read: list[bytes] = []

    async def receive() -> dict[str, Any]:
        assert guarded.done, "read before the caller was refused"
        read.append(b"")
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": len(read) < 4}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"1000000")],
    }
    await guarded.door(scope, receive, send)
    assert len(read) == 4, "what is still coming is let in, for the answer's sake, and dropped"
    head = dict(sent[0]["headers"])
    assert (sent[0]["status"], head[b"www-authenticate"], head[b"connection"]) == (
        401,
        b"Bearer",
        b"close",
    )
    ((context, status),) = guarded.done
    assert (context.caller, context.model, status) == (None, "", 401)


async def test_a_refusal_speaks_the_routes_own_language(guarded: Guarded) -> None:
    openai = await guarded.post("/v1/chat/completions", CHAT, "sk-wrong")
    assert (openai.status_code, openai.json()) == (
        401,
        {
            "error": {
                "message": "Incorrect API key provided.",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_api_key",
            }
        },
    )
    anthropic = await guarded.post("/v1/messages", ROUTES["/v1/messages"], x_api_key="sk-wrong")
    assert anthropic.status_code == 401
    assert anthropic.json()["type"] == "error"
    assert anthropic.json()["error"]["type"] == "authentication_error"
    models = await guarded.http.get("/v1/models")
    assert (models.status_code, models.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_a_model_or_an_effort_that_the_key_has_not_is_forbidden(guarded: Guarded) -> None:
    low = guarded.callers.key(tiers=["low"]).key.text
    for body in ({**CHAT, "reasoning_effort": "high"}, {**CHAT, "model": f"{MODEL}-high"}):
        answer = await guarded.post("/v1/chat/completions", body, low)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "tier_not_allowed")
        assert "'low'" in answer.json()["error"]["message"]
    other = guarded.callers.key(models=["other"]).key.text
    answer = await guarded.post("/v1/messages", ROUTES["/v1/messages"], other)
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "permission_error"
    assert guarded.world.core.requests == []
    assert guarded.callers.refused == {"tier": 2, "model": 1}


@pytest.mark.parametrize(
    ("key", "tenant", "served"),
    [
        ({}, {}, "medium"),
        ({"default_tier": "high"}, {}, "high"),
        ({}, {"default_tier": "low"}, "low"),
        ({"default_tier": "high"}, {"default_tier": "low"}, "high"),
        ({"tiers": ["low"]}, {}, "low"),
        ({"tiers": ["high"]}, {}, "high"),
        ({"tiers": ["low", "high"]}, {}, "low"),
    ],
)
async def test_who_names_no_effort_gets_its_own_default(
    guarded: Guarded, key: dict[str, Any], tenant: dict[str, Any], served: str
) -> None:
    guarded.callers.tenant("acme", **tenant)
    text = guarded.callers.key(**key).key.text
    answer = await guarded.post("/v1/chat/completions", CHAT, text)
    assert answer.status_code == 200
    assert guarded.world.core.contexts[-1].tier == served
    assert guarded.world.core.rendered_effort() == served


async def test_the_list_of_models_has_what_the_key_may_ask_for(guarded: Guarded) -> None:
    async def listed(key: str) -> set[str]:
        answer = await guarded.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        return {each["id"] for each in answer.json()["data"]}

    every = await listed(guarded.callers.key().key.text)
    assert {MODEL, "tiny", "tiny-high"} <= every
    some = await listed(guarded.callers.key(tiers=["low"]).key.text)
    assert some == {name for name in every if not name.endswith(("-medium", "-high"))}
    other = guarded.callers.key(models=["other"]).key.text
    assert await listed(other) == set()
    one = await guarded.http.get("/v1/models/tiny", headers={"authorization": f"Bearer {other}"})
    assert one.status_code == 404


async def test_a_key_for_usage_generates_nothing(guarded: Guarded) -> None:
    key = guarded.callers.key(scopes=["usage"]).key.text
    for path, body in ANSWERED.items():
        answer = await guarded.post(path, body, key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        assert "`generate`" in answer.json()["error"]["message"]
    assert guarded.callers.refused == {"scope": 2}


async def test_probes_and_metrics_need_no_key_unless_configured(guarded: Guarded) -> None:
    for path in ("/health", "/ready", "/openapi.json", "/metrics"):
        assert (await guarded.http.get(path)).status_code == 200
    guarded.callers.identity.public_metrics = False
    assert (await guarded.http.get("/metrics")).status_code == 401
    named = {"authorization": f"Bearer {guarded.callers.key().key.text}"}
    assert (await guarded.http.get("/metrics", headers=named)).status_code == 200


async def test_a_clients_own_salt_is_not_taken(guarded: Guarded) -> None:
    key = guarded.callers.key().key.text
    answer = await guarded.post("/v1/chat/completions", {**CHAT, "cache_salt": "theirs"}, key)
    assert answer.headers["x-trireme-ignored"] == "cache_salt"
    assert guarded.world.core.contexts[-1].cache_salt != "theirs"
