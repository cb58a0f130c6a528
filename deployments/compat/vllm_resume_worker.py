"""The workers' part of ``vllm_resume``: vLLM imports this as its worker extension.

Only Model Runner V1 needs it (CPU engines run it): it makes its own record of a request, with no
output and a fresh generator of noise. Model Runner V2 gets the written tokens from the scheduler
and draws its noise by position.
"""

from collections.abc import Sequence

import torch
from vllm.v1.worker import gpu_model_runner
from vllm.v1.worker.gpu_input_batch import CachedRequestState

from deployments.compat import crash
from deployments.compat.vllm_resume import carried

__all__ = ["PlacedGenerator", "ResumesAnswers", "place_generator"]

OFFSET_PER_DRAW = 4
"""What a draw over the vocabulary adds to a CUDA generator's offset. Model Runner V1 takes back as
much (``gpu_model_runner``) when it throws away what it drew for an unfinished prompt."""

SEEDS_BELOW = 2**31
"""The CPU sampler draws one integer below this for each token, and makes its noise from that
(``TopKTopPSampler.forward_cpu``)."""


class PlacedGenerator(torch.Generator):  # type: ignore[misc]
    """A CPU generator that stands where ``tokens`` tokens have been drawn.

    CPU generators have no offset, so vLLM fails when it takes a draw back. This one goes back to
    its place, which is the same thing: only draws that gave no token are taken back.
    """

    def __new__(cls, seed: int, tokens: Sequence[int]) -> "PlacedGenerator":
        generator: PlacedGenerator = super().__new__(cls, device="cpu")
        return generator

    def __init__(self, seed: int, tokens: Sequence[int]) -> None:
        self._seed = seed
        self._tokens = tokens
        self._place()

    def _place(self) -> None:
        self.manual_seed(self._seed)
        if self._tokens:
            torch.randint(0, SEEDS_BELOW, (len(self._tokens),), generator=self, dtype=torch.long)

    def get_offset(self) -> int:
        return OFFSET_PER_DRAW * len(self._tokens)

    def set_offset(self, offset: int) -> None:
        self._place()


def place_generator(
    generator: torch.Generator, seed: int, tokens: Sequence[int]
) -> torch.Generator:
    """A fresh ``generator``, put to where ``tokens`` have been drawn from it."""
    match generator.device.type:
        case "cpu":
            return PlacedGenerator(seed, tokens)
        case "cuda":
            generator.set_offset(generator.get_offset() + OFFSET_PER_DRAW * len(tokens))
    return generator


class _Record(CachedRequestState):  # type: ignore[misc]
    """A request as Model Runner V1 knows it; begins with the tokens that were written elsewhere."""

    generator: torch.Generator | None

    def __post_init__(self) -> None:
        super().__post_init__()
        params, generator = self.sampling_params, self.generator
        self.output_token_ids += carried(params)
        if generator is not None:
            self.generator = place_generator(generator, params.seed, self.output_token_ids)


gpu_model_runner.CachedRequestState = _Record
crash.end_at_once()


class ResumesAnswers:
    """For vLLM's ``worker_extension_cls``, which imports this module in each worker."""
