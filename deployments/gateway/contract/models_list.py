"""``GET /v1/models``: every name that a caller may write, for all models of this endpoint."""

from collections.abc import Mapping
from typing import Any

from cluster.errors import UnknownModel
from cluster.tenants.caller import Caller
from deployments.router.tiers import TierAlias


class ModelsList:
    """``created`` is Unix time in seconds, the same for all names: when this gateway started."""

    def __init__(
        self, names: Mapping[str, TierAlias], max_model_len: Mapping[str, int], created: int
    ) -> None:
        self._names = names
        self._cards = {
            name: self._card(name, alias.model, max_model_len.get(alias.model), created)
            for name, alias in names.items()
        }

    @staticmethod
    def _card(name: str, model: str, max_model_len: int | None, created: int) -> dict[str, Any]:
        # vLLM puts the path of the weights on the server into `root`; here it is the model's name.
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "trireme",
            "root": model,
            "parent": None if name == model else model,
            "max_model_len": max_model_len,
        }

    def all(self, caller: Caller | None = None) -> dict[str, Any]:
        """The answer to ``GET /v1/models``: what the caller may ask for."""
        cards = [card for name, card in self._cards.items() if self._may(caller, name)]
        return {"object": "list", "data": cards}

    def one(self, name: str, caller: Caller | None = None) -> dict[str, Any]:
        """The answer to ``GET /v1/models/{name}``. Raises ``UnknownModel``."""
        card = self._cards.get(name)
        if card is None or not self._may(caller, name):
            raise UnknownModel(name)
        return card

    def _may(self, caller: Caller | None, name: str) -> bool:
        if caller is None:
            return True
        alias = self._names[name]
        return (caller.models is None or alias.model in caller.models) and (
            alias.tier is None or alias.tier in caller.tiers
        )
