"""One model's place in vLLM's front-end: what ``AsyncLLM`` takes for its engine core.

vLLM hands over complete ``EngineCoreRequest``s (one for each of ``n``) and expects batches of
``EngineCoreOutput``. Detokenising, stop strings, ``n > 1``, log-probabilities and Harmony are its.
"""

import asyncio
import copy
import secrets
from functools import partial
from types import SimpleNamespace
from typing import Any

from cluster.errors import InternalError, InvalidRequest, TriremeError
from deployments.compat import vllm as compat
from deployments.engine.channel.frames import Output, Sampling
from deployments.gateway.context import current_request
from deployments.gateway.fleet_client import FleetClient
from deployments.gateway.resume import SEED_BITS
from deployments.gateway.streams import Stream

FINISH_REASONS = tuple(compat.FinishReason)

GREEDY_BELOW = 1e-5
"""A lower temperature makes vLLM take the likeliest token; it then needs no seed."""


class ModelCore:
    """Implements ``compat.FrontEndCore`` and the fleet's ``FrontEnd`` for ``model``."""

    def __init__(self, model: str, fleet: FleetClient) -> None:
        self.model = model
        self.engine_ranks_managed = [0]
        self.resources = SimpleNamespace(engine_dead=False)
        self._fleet = fleet
        # Bounded by the output limits of the streams that run, as each token is in here once.
        self._outputs: asyncio.Queue[compat.EngineCoreOutputs] = asyncio.Queue()
        self._client: compat.AsyncLLM | None = None

    def attach(self, client: compat.AsyncLLM) -> None:
        """The front-end that this core serves; it exists only after the core."""
        self._client = client

    # -------------------------------------------------------------- for vLLM

    async def add_request_async(self, request: compat.EngineCoreRequest) -> None:
        """Never raises: vLLM frees a request's state only if the error reaches its generator."""
        context = current_request.get(None)
        params = request.sampling_params
        if context is None or params is None or request.prompt_token_ids is None:
            self._fail(request.request_id, InternalError("a request that did not pass the door"))
            return
        variant = partial(_variant, params)
        if params.seed is None and params.temperature >= GREEDY_BELOW:
            # So that another replica can go on with the very tokens that this one would have drawn.
            # A copy: vLLM shares the parameters of the requests that ``n`` makes of one.
            params = request.sampling_params = copy.copy(params)
            resume = context.resume
            params.seed = secrets.randbits(SEED_BITS) if resume is None else resume.seed
        if params.repetition_detection is None:
            guard = self._fleet.guard.repetition.get(context.tier)
            if guard is not None:
                params = request.sampling_params = copy.copy(params)
                params.repetition_detection = compat.repetition_detection(guard)
                context.guarded = True
        request.cache_salt = context.cache_salt or None
        try:
            encoded = compat.encode_request(request)
        except ValueError as error:
            refusal = InvalidRequest(str(error))
            context.fail(refusal)
            self._fail(request.request_id, refusal)
            return
        sampling = Sampling(
            max_tokens=params.max_tokens or 1,
            min_tokens=params.min_tokens,
            seed=params.seed,
            ignore_eos=params.ignore_eos,
            stop_token_ids=tuple(params.stop_token_ids or ()),
        )
        tokens = request.prompt_token_ids
        go = partial(
            self._fleet.submit,
            request.request_id, tokens, sampling, encoded, context, self, variant,
        )  # fmt: skip
        if self._fleet.metering is None:
            go()
            return

        def admitted(refusal: TriremeError | None) -> None:
            if refusal is None:
                go()
            else:
                context.fail(refusal)
                self._fail(request.request_id, refusal)

        self._fleet.metering.admit(
            context, request.request_id, compat.prompt_name(request), len(tokens),
            sampling.max_tokens, admitted,
        )  # fmt: skip

    async def get_output_async(self) -> compat.EngineCoreOutputs:
        return await self._outputs.get()

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        if self._fleet.metering is not None:
            self._fleet.metering.abort(request_ids)
        self._fleet.abort(request_ids)

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    def shutdown(self, timeout: float | None = None) -> None:
        """The fleet belongs to the gateway and ends with it."""

    # -------------------------------------------------------------- for the fleet

    def deliver(self, outputs: list[tuple[Stream, Output]]) -> None:
        """One frame's outputs of this model. The queue holds what the loop has not got to yet."""
        self._outputs.put_nowait(
            compat.EngineCoreOutputs(
                outputs=[self._core_output(stream, output) for stream, output in outputs]
            )
        )

    @staticmethod
    def _core_output(stream: Stream, output: Output) -> compat.EngineCoreOutput:
        request_id = stream.request.request_id
        goes_on = stream.request.written > 0
        if output.details is not None:
            detailed = compat.decode_output(output.details)
            detailed.request_id = request_id
            finish = None if output.finish is None else FINISH_REASONS[output.finish]
            if finish != detailed.finish_reason:
                # The fleet has ended it, or names its end as clients know it.
                detailed.finish_reason, detailed.stop_reason = finish, None
            if goes_on:
                # Told with the first tokens; this replica's prompt includes the answer so far.
                detailed.prefill_stats = detailed.new_prompt_logprobs_tensors = None
            return detailed
        made = compat.EngineCoreOutput(
            request_id,
            output.tokens,
            finish_reason=None if output.finish is None else FINISH_REASONS[output.finish],
            stop_reason=output.stop_reason,
        )
        if output.cached_tokens is not None and not goes_on:
            made.prefill_stats = compat.prefill_stats(
                stream.request.prompt_tokens, output.cached_tokens
            )
        return made

    def fail(self, stream: Stream, error: TriremeError) -> None:
        if self._fleet.metering is not None:
            self._fleet.metering.dropped(stream.context, stream.request.request_id)
        stream.context.fail(error)
        self._fail(stream.request.request_id, error)

    def _fail(self, request_id: str, error: TriremeError) -> None:
        if self._client is not None:
            compat.fail_request(self._client, request_id, error)


def _variant(params: Any) -> bytes:
    """What the parameters ask for, the same for the same parameters."""
    fields = ((name, getattr(params, name)) for name in params.__struct_fields__)
    return repr(sorted(fields)).encode()
