"""Who calls: API keys and tokens, checked against what this gateway knows. No I/O on the way."""

import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cluster.batches.views import Owner
from cluster.errors import CallersUnknown, Forbidden, Unauthorized
from cluster.tenants.caller import Caller
from cluster.tenants.directory import Directory
from cluster.tenants.keys import PREFIX, key_id_of
from cluster.tenants.secret import DoorSecret
from cluster.tenants.snapshot import Snapshot, both
from cluster.tenants.tokens import BadToken, Tokens, looks_like_token
from deployments.gateway.contract.asgi import Headers

MOST_CREDENTIAL_CHARS = 16_384
MOST_SALTS = 10_000

BY_TOKEN = "jwt:"
"""What the ``key_id`` of a caller begins with that has a token of the identity provider."""

NO_CREDENTIALS = (
    "You didn't provide an API key. Send it as `Authorization: Bearer YOUR_KEY`, or in `x-api-key`."
)
WRONG_KEY = "Incorrect API key provided."


class Identity:
    """The door's ``Access``: finds the ``Caller`` of a request by its headers.

    ``clock`` is Unix time in seconds: keys and tokens end by it.
    """

    def __init__(
        self,
        directory: Directory,
        secret: DoorSecret,
        tokens: Tokens | None,
        *,
        public_metrics: bool,
        refused: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._secret = secret
        self._tokens = tokens
        self._clock = clock
        self._salts: dict[str, str] = {}
        self.public_metrics = public_metrics
        self.refused = refused

    async def caller(self, headers: Headers) -> Caller:
        """Raises ``Unauthorized``, ``Forbidden``, and ``CallersUnknown`` before the first look at
        the store."""
        given = self._credential(headers)
        snapshot = self._directory.snapshot
        if snapshot is None:
            self.refused("unavailable")
            raise CallersUnknown
        if self._tokens is not None and not given.startswith(PREFIX) and looks_like_token(given):
            return await self._bearer(self._tokens, given, snapshot)
        return self._holder(given, snapshot)

    def again(self, owner: Owner) -> Caller:
        """Who has left work for later: with the rights of now, and none that he had not then.

        Raises ``Unauthorized`` where the key or tenant is good no more."""
        snapshot = self._directory.snapshot
        if snapshot is None:
            raise CallersUnknown
        known = snapshot.keys.get(owner.key_id)
        if known is not None:
            ended = known.ends_at is not None and self._clock() >= known.ends_at
            caller = None if ended else known.caller
        else:
            tenant = snapshot.tenants.get(owner.tenant)
            by_token = tenant is not None and owner.key_id.startswith(BY_TOKEN)
            caller = replace(tenant, key_id=owner.key_id) if tenant and by_token else None
        if caller is None or caller.tenant != owner.tenant:
            raise Unauthorized("The key that this was ordered with is good no more.")
        tiers, models = owner.tiers, owner.models
        return replace(
            caller,
            tiers=caller.tiers if tiers is None else caller.tiers & frozenset(tiers),
            models=both(caller.models, None if models is None else frozenset(models)),
        )

    def cache_salt(self, caller: Caller) -> str:
        """The same for callers of one group, in all gateways; for nobody else to guess."""
        salt = self._salts.get(caller.cache_group)
        if salt is None:
            if len(self._salts) >= MOST_SALTS:
                self._salts.clear()
            salt = self._salts[caller.cache_group] = self._secret.cache_salt(caller.cache_group)
        return salt

    def _credential(self, headers: Headers) -> str:
        bearer = key = None
        for name, value in headers:
            lower = name.lower()
            if lower == b"authorization":
                if bearer is not None:
                    raise self._unauthorized("invalid", "There is more than one authorization.")
                bearer = value
            elif lower == b"x-api-key":
                if key is not None:
                    raise self._unauthorized("invalid", "There is more than one API key.")
                key = value
        if bearer is not None:
            scheme, _, rest = bearer.partition(b" ")
            bearer = rest.strip() if scheme.lower() == b"bearer" else None
        # An empty one, too, is what clients send who were given none.
        found = bearer or (key or b"").strip()
        if not found:
            raise self._unauthorized("missing", NO_CREDENTIALS)
        if len(found) > MOST_CREDENTIAL_CHARS:
            raise self._unauthorized("invalid", WRONG_KEY)
        return found.decode("latin-1")

    def _holder(self, given: str, snapshot: Snapshot) -> Caller:
        key_id = key_id_of(given)
        if key_id is None:
            raise self._unauthorized("invalid", WRONG_KEY)
        digest = self._secret.digest(given.encode())
        known = snapshot.keys.get(key_id)
        if known is None or not hmac.compare_digest(digest, known.digest):
            raise self._unauthorized("invalid", WRONG_KEY)
        if known.ends_at is not None and self._clock() >= known.ends_at:
            # Told only to who has the whole key.
            reason = "revoked" if known.revoked else "expired"
            raise self._unauthorized(reason, f"This API key is {reason}.")
        return known.caller

    async def _bearer(self, tokens: Tokens, given: str, snapshot: Snapshot) -> Caller:
        try:
            return await tokens.caller(given, snapshot)
        except BadToken as error:
            self.refused(error.fault)
            if error.fault == "unknown_tenant":
                raise Forbidden(str(error), code="unknown_tenant") from error
            raise Unauthorized(str(error)) from error

    def _unauthorized(self, reason: str, message: str) -> Unauthorized:
        self.refused(reason)
        return Unauthorized(message)

    def status(self) -> Mapping[str, Any]:
        """How the knowledge of callers stands, for ``trireme status``."""
        return {**self._directory.status().as_dict(), "secret_fits": self.secret_fits}

    @property
    def secret_fits(self) -> bool:
        """Whether keys can be known at all: they were hashed with the secret that is here."""
        snapshot = self._directory.snapshot
        return snapshot is None or snapshot.secret_mark in (None, self._secret.mark)
