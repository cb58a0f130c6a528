"""The tier of a request, read from its body and written back into it.

The door routes by a tier and vLLM renders an effort into the prompt: both must be the same, so the
body that vLLM gets always carries the tier's own word.
"""

from typing import Any

from cluster.config import Tier
from cluster.errors import InvalidRequest, UnknownEffort
from deployments.gateway.contract.routes import Kind
from deployments.router.tiers import TIER_OF_EFFORT, TierAlias, resolve_tier

MIN_THINKING_BUDGET_TOKENS = 1024
"""Anthropic's lower bound of ``thinking.budget_tokens``."""


def settle_tier(
    kind: Kind, body: dict[str, Any], alias: TierAlias, default: Tier
) -> tuple[str | None, Tier]:
    """The effort asked for (None: none) and the tier to serve; ``body`` is changed to say the tier.

    A raw prompt (completions, tokenize) names no effort: its tier is the model name's, else
    ``default``. Raises ``UnknownEffort``, and ``InvalidRequest`` for an effort that is no word.
    """
    if kind == "chat":
        return _chat(body, alias, default)
    if kind == "responses":
        return _responses(body, alias, default)
    if kind == "messages":
        return _messages(body, alias, default)
    return None, alias.tier or default


def write_tier(kind: Kind, body: dict[str, Any], tier: Tier) -> bool:
    """Make a settled body say another tier. False for a raw prompt, which names its effort inside
    its text if at all."""
    if kind == "chat":
        body["reasoning_effort"] = tier
    elif kind == "responses":
        body["reasoning"] = {**_object(body, "reasoning"), "effort": tier}
    elif kind == "messages":
        body["output_config"] = {**_object(body, "output_config"), "effort": tier}
    else:
        return False
    return True


def _tier(effort: Any, param: str, alias: TierAlias, default: Tier) -> Tier:
    if effort is not None and not isinstance(effort, str):
        raise InvalidRequest(f"`{param}` must be a string.", param=param, code="invalid_type")
    tier = resolve_tier(effort, alias, default)
    if tier is None:
        raise UnknownEffort(str(effort), TIER_OF_EFFORT, param)
    return tier


def _object(body: dict[str, Any], field: str) -> dict[str, Any]:
    value = body.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"`{field}` must be an object.", param=field, code="invalid_type")
    return value


def _chat(body: dict[str, Any], alias: TierAlias, default: Tier) -> tuple[str | None, Tier]:
    effort = body.get("reasoning_effort")
    tier = _tier(effort, "reasoning_effort", alias, default)
    body["reasoning_effort"] = tier
    return effort, tier


def _responses(body: dict[str, Any], alias: TierAlias, default: Tier) -> tuple[str | None, Tier]:
    reasoning = _object(body, "reasoning")
    effort = reasoning.get("effort")
    tier = _tier(effort, "reasoning.effort", alias, default)
    body["reasoning"] = {**reasoning, "effort": tier}
    return effort, tier


def _messages(body: dict[str, Any], alias: TierAlias, default: Tier) -> tuple[str | None, Tier]:
    """Anthropic's ``output_config.effort``; thinking that is disabled is the least: low.

    ``thinking`` itself does not go on to vLLM: gpt-oss cannot stop thinking, and has no budget for
    it (vLLM answers 400 to either).
    """
    config = _object(body, "output_config")
    effort = config.get("effort")
    tier = _tier(effort, "output_config.effort", alias, default)
    if _thinking_is_disabled(body):
        effort, tier = "none", "low"
    body.pop("thinking", None)
    body["output_config"] = {**config, "effort": tier}
    return effort, tier


def _thinking_is_disabled(body: dict[str, Any]) -> bool:
    thinking = _object(body, "thinking")
    if not thinking:
        return False
    mode = thinking.get("type")
    if mode not in ("enabled", "disabled", "adaptive"):
        raise InvalidRequest(
            "`thinking.type` must be 'enabled', 'disabled' or 'adaptive'.", param="thinking.type"
        )
    if mode == "enabled":
        budget, limit = thinking.get("budget_tokens"), body.get("max_tokens")
        if type(budget) is not int or budget < MIN_THINKING_BUDGET_TOKENS:
            raise InvalidRequest(
                f"`thinking.budget_tokens` must be {MIN_THINKING_BUDGET_TOKENS} or more.",
                param="thinking.budget_tokens",
            )
        if type(limit) is int and budget >= limit:
            raise InvalidRequest(
                "`thinking.budget_tokens` must be less than `max_tokens`.",
                param="thinking.budget_tokens",
            )
    return bool(mode == "disabled")
