"""Tokens (JWT) of the identity provider: checked, and what they claim read as a caller."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jwt

from cluster.config import TIERS, JwtConfig, Tier
from cluster.tenants.caller import Caller
from cluster.tenants.jwks import Jwks
from cluster.tenants.orders import NAME_PATTERN
from cluster.tenants.snapshot import Snapshot

MOST_TOKEN_CHARS = 16_384
MOST_REMEMBERED = 4096
"""Tokens of which the signature was checked: an RS256 signature costs 50 µs, and clients send the
same token for an hour."""

SUBJECT_CHARS = 128

Fault = Literal["invalid", "expired", "unknown_tenant"]


class BadToken(Exception):
    """The token lets nobody in. ``str()`` is one line for the bearer."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault: Fault = fault


@dataclass(frozen=True, slots=True)
class Checked:
    """What a good token says. ``ends_at`` is Unix time, with the leeway."""

    claims: Mapping[str, Any]
    ends_at: float
    generation: int


def looks_like_token(text: str) -> bool:
    """Three parts, as every signed JWT has them."""
    return text.count(".") == 2


class Tokens:
    """Checks tokens by ``settings`` and the keys in ``jwks``."""

    def __init__(
        self, settings: JwtConfig, jwks: Jwks, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._jwks = jwks
        self._clock = clock
        self._checked: OrderedDict[bytes, Checked] = OrderedDict()
        # A list: what a token itself names as its algorithm decides nothing.
        self._algorithms: list[str] = list(settings.algorithms)

    async def caller(self, token: str, snapshot: Snapshot) -> Caller:
        """Who bears the token. Raises ``BadToken``."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        checked = self._checked.get(digest)
        if checked is None or checked.generation != self._jwks.generation:
            checked = await self._check(token)
            self._checked[digest] = checked
            while len(self._checked) > MOST_REMEMBERED:
                self._checked.popitem(last=False)
        if self._clock() >= checked.ends_at:
            self._checked.pop(digest, None)
            raise BadToken("expired", "The token has expired.")
        return self._mapped(checked.claims, snapshot)

    async def _check(self, token: str) -> Checked:
        if len(token) > MOST_TOKEN_CHARS:
            raise BadToken("invalid", "The token is too long.")
        try:
            head = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise BadToken("invalid", "The token cannot be read.") from error
        key_id = head.get("kid")
        if head.get("alg") not in self._algorithms:
            raise BadToken("invalid", "The token is not signed as it must be.")
        key = await self._jwks.look_for(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise BadToken("invalid", "The token is signed by a key that is not known here.")
        # Told before the check: keys that change meanwhile make for another one.
        return self._verify(token, key, self._jwks.generation)

    def _verify(self, token: str, key: jwt.PyJWK, generation: int) -> Checked:
        settings = self._settings
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise BadToken("expired", "The token has expired.") from error
        except jwt.InvalidAudienceError as error:
            raise BadToken("invalid", "The token is for another audience.") from error
        except jwt.InvalidIssuerError as error:
            raise BadToken("invalid", "The token is of another issuer.") from error
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise BadToken("invalid", "The token is not valid.") from error
        return Checked(claims, float(claims["exp"]) + settings.leeway_s, generation)

    def _mapped(self, claims: Mapping[str, Any], snapshot: Snapshot) -> Caller:
        settings = self._settings
        value = claim(claims, settings.tenant_claim)
        name = value if isinstance(value, str) else ""
        if settings.tenants:
            name = settings.tenants.get(name, "")
        tenant = snapshot.tenants.get(name)
        if tenant is None:
            raise BadToken("unknown_tenant", "The token belongs to no tenant of this endpoint.")
        return replace(
            tenant,
            key_id=f"jwt:{claims['sub']}"[:SUBJECT_CHARS],
            team=_name(claims, settings.team_claim),
            project=_name(claims, settings.project_claim),
            tiers=tenant.tiers & self._tiers(claims, tenant.tiers),
        )

    def _tiers(self, claims: Mapping[str, Any], every: frozenset[Tier]) -> frozenset[Tier]:
        if self._settings.tiers_claim is None:
            return every
        value = claim(claims, self._settings.tiers_claim)
        # As OAuth writes scopes, or as a list.
        words = value.split() if isinstance(value, str) else value
        listed = words if isinstance(words, list) else []
        return frozenset(tier for tier in TIERS if tier in listed)


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim at ``path``: by its whole name (names may be URLs), else step by step."""
    if path in claims:
        return claims[path]
    here: Any = claims
    for step in path.split("."):
        if not isinstance(here, Mapping):
            return None
        here = here.get(step)
    return here


def _name(claims: Mapping[str, Any], path: str | None) -> str:
    """A team or project; what could not be its name counts as none."""
    value = None if path is None else claim(claims, path)
    return value if isinstance(value, str) and NAME_PATTERN.fullmatch(value) else ""
