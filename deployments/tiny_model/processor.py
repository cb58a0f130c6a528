"""The logits processor that makes a vLLM engine speak the tiny model's script.

For vLLM's V1 model runner, which CPU engines use:
`--logits-processors deployments.tiny_model.processor:HarmonyScript`.
"""

import logging

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from deployments.tiny_model.constraint import Constraint, read_constraint
from deployments.tiny_model.harmony import RETURN
from deployments.tiny_model.script import Script, write_script

logger = logging.getLogger(__name__)

# So far above any other logit that no temperature, penalty or top-p changes the choice, and so far
# below the largest float32 that a division by a small temperature does not overflow.
_CERTAIN = 1e9


class HarmonyScript(AdapterLogitsProcessor):  # type: ignore[misc]
    """Forces the next token of each request's script."""

    def is_argmax_invariant(self) -> bool:
        """Greedy sampling needs the script as well."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> "Speaker":
        """A speaker for one request; it writes its script when it first sees the prompt."""
        return Speaker(params)


class Speaker:
    """Speaks one request's script, token by token, at a constant cost for each.

    Where the engine forbids the scripted token (a ban, a grammar), it is not forced: the sampler
    then chooses among what is allowed. If a grammar forbids it, the script has lost its way in the
    grammar, and from then on the reply ends as soon as the grammar lets it.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._script: Script | None = None
        self._lost = False

    def __call__(
        self, prompt_ids: list[int], output_ids: list[int], logits: torch.Tensor
    ) -> torch.Tensor:
        """Raise the logit of the next scripted token; `logits` is one request's row."""
        script = self._script
        if script is None:
            script = self._script = _script_for(prompt_ids, self._params)
            # A request may come with a part of its reply: after a preemption, or a failover.
            self._lost = self._strayed_from(script, output_ids)
        token = RETURN if self._lost else script.token(script.spoken_tokens + len(output_ids))
        if logits[token].item() == -torch.inf:
            if self._params.structured_outputs is None or self._lost:
                return logits
            self._lost = True
            token = RETURN
            if logits[token].item() == -torch.inf:
                return logits
        logits[token] = _CERTAIN
        return logits

    def _strayed_from(self, script: Script, output_ids: list[int]) -> bool:
        return self._params.structured_outputs is not None and any(
            token != script.token(script.spoken_tokens + place)
            for place, token in enumerate(output_ids)
        )


def _script_for(prompt_ids: list[int], params: SamplingParams) -> Script:
    try:
        return write_script(
            prompt_ids,
            params.seed or 0,
            _constraint_of(params),
            min_tokens=params.min_tokens,
            endless=params.ignore_eos,
        )
    except Exception as error:
        # Any error here would end the whole engine and with it every other request.
        logger.warning("no script for a request: %s", type(error).__name__)
        return Script((RETURN,), 0)


def _constraint_of(params: SamplingParams) -> Constraint | None:
    asked = params.structured_outputs
    if asked is None:
        return None
    return read_constraint(
        json_schema=asked.json,
        json_object=asked.json_object,
        regex=asked.regex,
        choice=asked.choice,
        grammar=asked.grammar,
        structural_tag=asked.structural_tag,
    )
