"""Requests that kill a real engine: a logits processor of vLLM's that some of them set off.

No request that gets past the gateway is known to kill vLLM 0.32, so this is how one would. What
marks it are stop tokens that nothing ever writes; without them it is a request like any other.
"""

import os
import signal
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

AT_TOKEN, LAST = 199_000, 100
WAYS = 199_200
"""The marks: ``AT_TOKEN`` + n for death at output token n, ``WAYS`` + i for the way."""

EXCEPTION, SEGMENTATION_FAULT, ABORT = range(3)


def marks(at_token: int, way: int) -> list[int]:
    """Stop tokens that make the request deadly."""
    return [AT_TOKEN + at_token, WAYS + way]


class Deadly(AdapterLogitsProcessor):  # type: ignore[misc]
    """Ends the engine core's process at the request's chosen output token."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Any:
        stops = params.stop_token_ids or []
        at_token = next((each - AT_TOKEN for each in stops if 0 <= each - AT_TOKEN <= LAST), None)
        way = next((each - WAYS for each in stops if 0 <= each - WAYS <= ABORT), None)
        if at_token is None or way is None:
            return None

        def kill(prompt: list[int], output: list[int], logits: torch.Tensor) -> torch.Tensor:
            if len(output) < at_token:
                return logits
            if way == EXCEPTION:
                raise RuntimeError("an illegal memory access was encountered")
            os.kill(os.getpid(), signal.SIGSEGV if way == SEGMENTATION_FAULT else signal.SIGABRT)
            return logits

        return kill
