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

POISON = 199_000
AT_TOKEN = 199_100
WAYS = 199_050
"""The marks: poison, ``AT_TOKEN`` + n for death at output token n, ``WAYS`` + i for the way."""

EXCEPTION, SEGMENTATION_FAULT, ABORT = range(3)


def marks(at_token: int, way: int) -> list[int]:
    """Stop tokens that make the request deadly."""
    return [POISON, AT_TOKEN + at_token, WAYS + way]


class Deadly(AdapterLogitsProcessor):  # type: ignore[misc]
    """Ends the engine core's process at the request's chosen output token."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Any:
        stops = params.stop_token_ids or []
        if POISON not in stops:
            return None
        at_token = next(each - AT_TOKEN for each in stops if each >= AT_TOKEN)
        way = next(each - WAYS for each in stops if WAYS <= each < AT_TOKEN)

        def kill(prompt: list[int], output: list[int], logits: torch.Tensor) -> torch.Tensor:
            if len(output) < at_token:
                return logits
            if way == EXCEPTION:
                raise RuntimeError("an illegal memory access was encountered")
            os.kill(os.getpid(), signal.SIGSEGV if way == SEGMENTATION_FAULT else signal.SIGABRT)
            return logits

        return kill
