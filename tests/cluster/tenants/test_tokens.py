"""Tokens of an identity provider: which let somebody in, and as whom."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cluster.config import JwtConfig
from cluster.tenants.caller import Caller, Limited, Limits
from cluster.tenants.jwks import LEAST_S, Jwks
from cluster.tenants.snapshot import Snapshot
from cluster.tenants.tokens import BadToken, Tokens, claim
from tests.cluster.tenants.provider import (
    AUDIENCE,
    ISSUER,
    Provider,
    SigningKey,
    claims,
    unsigned,
)

ONE = SigningKey("one")
TWO = SigningKey("two")
CURVE = SigningKey("curve", "ES256")

ACME = Caller(
    "acme",
    "",
    tiers=frozenset({"low", "medium"}),
    weight=2.0,
    limits=(Limited("tenant:acme", None, Limits(requests_per_minute=5)),),
    cache_group="tenant:acme",
)
SNAPSHOT = Snapshot(1, {}, {"acme": ACME})


class Clock:
    """Monotonic time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider(ONE, CURVE)
    yield made
    made.close()


def settings(provider: Provider, **more: Any) -> JwtConfig:
    told = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": provider.url, **more}
    return JwtConfig.model_validate(told)


@asynccontextmanager
async def checking(
    provider: Provider, clock: Clock | None = None, **more: Any
) -> AsyncIterator[tuple[Tokens, Jwks]]:
    config = settings(provider, **more)
    jwks = Jwks(config.jwks_url, config.refresh_s, clock or time.monotonic)
    jwks.start()
    while not jwks.keys and not jwks.error:
        await asyncio.sleep(0.005)
    try:
        yield Tokens(config, jwks), jwks
    finally:
        await jwks.stop()


async def refused(tokens: Tokens, token: str) -> str:
    with pytest.raises(BadToken) as caught:
        await tokens.caller(token, SNAPSHOT)
    return f"{caught.value.fault}: {caught.value}"


@pytest.mark.parametrize("key", [ONE, CURVE], ids=["RS256", "ES256"])
async def test_a_good_token_is_its_tenants_caller(provider: Provider, key: SigningKey) -> None:
    async with checking(provider) as (tokens, _):
        for _ in range(2):  # the second time, the signature is remembered
            found = await tokens.caller(key.sign(claims(exp=4_000_000_000)), SNAPSHOT)
            assert (found.tenant, found.key_id, found.tiers) == (
                "acme",
                "jwt:svc-web",
                ACME.tiers,
            )
            assert (found.limits, found.weight, found.cache_group) == (
                ACME.limits,
                2.0,
                ACME.cache_group,
            )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"exp": time.time() - 3600}, "expired: The token has expired"),
        ({"exp": None}, "invalid"),
        ({"nbf": time.time() + 3600}, "invalid"),
        ({"aud": "other"}, "invalid: The token is for another audience"),
        ({"aud": None}, "invalid"),
        ({"iss": "https://evil.example.com/"}, "invalid: The token is of another issuer"),
        ({"iss": None}, "invalid"),
        ({"sub": None}, "invalid"),
        ({"tenant": "globex"}, "unknown_tenant"),
        ({"tenant": None}, "unknown_tenant"),
        ({"tenant": ["acme"]}, "unknown_tenant"),
    ],
)
async def test_a_token_that_claims_wrongly_lets_nobody_in(
    provider: Provider, more: dict[str, Any], words: str
) -> None:
    async with checking(provider) as (tokens, _):
        assert words in await refused(tokens, ONE.sign(claims(**more)))


async def test_a_token_without_a_signature_lets_nobody_in(provider: Provider) -> None:
    async with checking(provider) as (tokens, _):
        assert "not signed as it must be" in await refused(tokens, unsigned(claims()))


async def test_a_public_key_is_no_shared_secret(provider: Provider) -> None:
    """The oldest trick: HS256 with the provider's public key, which everybody has, as secret."""

    def part(told: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(told).encode()).rstrip(b"=")

    head = part({"alg": "HS256", "typ": "JWT", "kid": "one"})
    signed = head + b"." + part(claims())
    mac = hmac.digest(ONE.public_pem(), signed, hashlib.sha256)
    token = signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")
    # Nor does a shared secret among the published keys make one.
    provider.more = [{"kty": "oct", "kid": "mac", "k": "c2VjcmV0", "alg": "HS256"}]
    async with checking(provider) as (tokens, jwks):
        assert "not signed as it must be" in await refused(tokens, token.decode())
        assert set(jwks.keys) == {"one", "curve"}


async def test_a_token_of_another_key_under_a_known_id_lets_nobody_in(provider: Provider) -> None:
    async with checking(provider) as (tokens, _):
        assert "not valid" in await refused(tokens, SigningKey("one").sign(claims()))
        # Nor one that is signed by another algorithm's key than it says.
        assert "not valid" in await refused(tokens, CURVE.sign(claims(), kid="one"))


async def test_a_token_that_was_changed_lets_nobody_in(provider: Provider) -> None:
    async with checking(provider) as (tokens, _):
        head, _, mac = ONE.sign(claims()).split(".")
        body = base64.urlsafe_b64encode(json.dumps(claims(tenant="acme")).encode()).decode()
        assert "not valid" in await refused(tokens, f"{head}.{body.rstrip('=')}.{mac}")


@pytest.mark.parametrize("token", ["a.b.c", "..", "é.é.é", "x" * 20_000 + ".y.z"])
async def test_what_is_no_token_is_refused(provider: Provider, token: str) -> None:
    async with checking(provider) as (tokens, _):
        assert "invalid" in await refused(tokens, token)


async def test_an_unknown_key_id_makes_for_one_fetch_and_not_a_flood(provider: Provider) -> None:
    clock = Clock()
    async with checking(provider, clock) as (tokens, _):
        assert provider.asked == 1
        clock.now += LEAST_S
        strange = [SigningKey("one").sign(claims(), kid=f"made-up-{n}") for n in range(20)]
        faults = await asyncio.gather(*(refused(tokens, token) for token in strange))
        assert all("not known here" in fault for fault in faults)
        assert provider.asked == 2


async def test_a_rotated_key_is_found_and_the_old_one_goes(provider: Provider) -> None:
    clock = Clock()
    async with checking(provider, clock) as (tokens, _):
        old = ONE.sign(claims())
        assert (await tokens.caller(old, SNAPSHOT)).tenant == "acme"
        provider.keys = [TWO]
        # Too soon after the last fetch to ask again.
        assert "not known here" in await refused(tokens, TWO.sign(claims()))
        clock.now += LEAST_S
        assert (await tokens.caller(TWO.sign(claims()), SNAPSHOT)).tenant == "acme"
        # What was remembered of the old key is worth nothing now.
        assert "not known here" in await refused(tokens, old)


async def test_a_fetch_that_has_just_ended_is_not_waited_for_as_if_it_were_new(
    provider: Provider,
) -> None:
    clock = Clock()
    jwks = Jwks(settings(provider).jwks_url, 3600.0, clock)
    fetched = asyncio.Event()

    async def rotate_at_once() -> None:
        # Runs in the very turn in which the first fetch has ended.
        await fetched.wait()
        provider.keys = [TWO]
        clock.now += LEAST_S
        assert await jwks.look_for(TWO.key_id) is not None

    rotating = asyncio.create_task(rotate_at_once())
    first = jwks._fetch

    async def fetch_and_tell() -> None:
        await first()
        fetched.set()

    jwks._fetch = fetch_and_tell  # type: ignore[method-assign]
    assert await jwks.look_for(ONE.key_id) is not None
    await rotating
    await jwks.stop()


async def test_while_the_provider_is_away_its_known_keys_go_on(provider: Provider) -> None:
    clock = Clock()
    async with checking(provider, clock) as (tokens, jwks):
        provider.status = 503
        clock.now += LEAST_S
        assert "not known here" in await refused(tokens, TWO.sign(claims()))
        assert jwks.error
        assert (await tokens.caller(ONE.sign(claims()), SNAPSHOT)).tenant == "acme"


async def test_a_slow_provider_holds_nobody_else_up(provider: Provider) -> None:
    clock = Clock()
    async with checking(provider, clock) as (tokens, _):
        known, strange = ONE.sign(claims()), TWO.sign(claims())
        provider.delay_s = 0.5
        clock.now += LEAST_S
        waiting = asyncio.create_task(refused(tokens, strange))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await tokens.caller(known, SNAPSHOT)
        assert time.monotonic() - began < 0.1
        assert not waiting.done()
        await waiting


async def test_claims_are_mapped_as_configured(provider: Provider) -> None:
    told = {
        "https://example.com/org": "4711",
        "org": {"team": "search", "project": "Not A Name"},
        "scope": "low high other",
    }
    config: dict[str, Any] = {
        "tenant_claim": "https://example.com/org",
        "tenants": {"4711": "acme"},
        "team_claim": "org.team",
        "project_claim": "org.project",
        "tiers_claim": "scope",
    }
    async with checking(provider, **config) as (tokens, _):
        found = await tokens.caller(ONE.sign(claims(**told)), SNAPSHOT)
        # Never more than the tenant has.
        assert (found.tenant, found.team, found.project, found.tiers) == (
            "acme",
            "search",
            "",
            frozenset({"low"}),
        )
        other = ONE.sign(claims(**{**told, "https://example.com/org": "acme"}))
        assert "unknown_tenant" in await refused(tokens, other)
        none = ONE.sign(claims(**{**told, "scope": None}))
        assert (await tokens.caller(none, SNAPSHOT)).tiers == frozenset()


async def test_a_token_that_was_good_ends_with_its_time(provider: Provider) -> None:
    config = settings(provider, leeway_s=0)
    jwks = Jwks(config.jwks_url, config.refresh_s)
    jwks.start()
    while not jwks.keys:
        await asyncio.sleep(0.005)
    now = time.time()
    tokens = Tokens(config, jwks, clock=lambda: now)
    token = ONE.sign(claims(exp=int(now) + 5))
    await tokens.caller(token, SNAPSHOT)
    now += 6
    assert "expired" in await refused(tokens, token)
    await jwks.stop()


def test_a_claim_is_found_by_its_whole_name_first() -> None:
    told = {"a.b": 1, "a": {"b": 2, "c": {"d": 3}}}
    assert [claim(told, path) for path in ("a.b", "a.c.d", "a.x", "x.y", "a.b.c")] == [
        1,
        3,
        None,
        None,
        None,
    ]
