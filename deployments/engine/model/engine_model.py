"""The scheduler of one replica in virtual time, after vLLM's, with decode steps leapt over.

A step has a token budget: decoding requests come first with one token each, then prompts that were
begun, then waiting requests by (priority, arrival) while seats and KV blocks last. When blocks run
out, the running request of lowest priority, the latest among equals, loses its blocks and computes
them again later.

The engine schedules a step while the one before it runs (vLLM's asynchronous scheduling), so a
request that comes in the middle of a step sits out the next one too. Between two changes of the
batch all steps are alike but for the KV cache, which grows by one token a request: their times are
an arithmetic series, and the model leaps over them all in one go. Nothing is kept per request and
step.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable

from cluster.steptime import StepModel
from deployments.engine.model.kv_cache import KvCache
from deployments.engine.model.terms import (
    EngineFull,
    EngineLimits,
    EngineLoad,
    Event,
    EventKind,
    TooLarge,
)
from deployments.engine.model.work import Work

STEP_TIME_WEIGHT = 0.1
"""Weight of the newest step in the moving average of the step time, as in the engine's host."""

_ENDLESS = 1 << 60

_WAITING, _PREFILLING, _DECODING, _GONE = 1, 2, 3, 4


Watcher = Callable[[int, float, int, float, int], None]
"""Told of every run of steps: decoding requests, their KV tokens at its first step, prompt tokens,
query-key pairs of these, and how many steps."""


class EngineModel:
    """See the module's text. Times are seconds of virtual time and never run backwards.

    ``max_leap`` 1 makes every step an end of its own, for callers that deliver token by token.
    ``watch`` is called with the make-up of the steps as they end.
    """

    def __init__(
        self,
        steps: StepModel,
        limits: EngineLimits,
        *,
        slowdown: float = 1.0,
        max_leap: int = _ENDLESS,
        watch: Watcher | None = None,
    ) -> None:
        self.limits = limits
        self.steps = steps
        self._slowdown = slowdown
        self._max_leap = max_leap
        self._watch = watch
        self._block = limits.block_tokens
        self._window = limits.window_blocks
        self._works: dict[Hashable, Work] = {}
        self._events: list[Event] = []
        self._halted_s = math.nan
        self._orders = 0
        self.preemptions = 0
        # Newcomers, in order of arrival, until they are seen; then by (priority, arrival, number).
        self._incoming: deque[Work] = deque()
        self._waiting: list[tuple[int, float, int, Work]] = []
        self._waiting_count = 0
        self._prefill_backlog = 0
        # Running: prompts begun; decoding ones as their number, their KV tokens, how many of them
        # begin a block when the count of steps is congruent to the index, and who ends when.
        self._prefilling: list[Work] = []
        self._decoding = 0
        self._kv_tokens = 0
        self._begins = [0] * self._block
        self._ends: list[tuple[int, int, Work]] = []
        self._leaving: list[Work] = []
        self.cache = KvCache(limits.kv_blocks, prefix_caching=limits.prefix_caching)
        # The plan: `_planned` steps from `_start_s` on, the first of `_first_s`, each `_growth_s`
        # longer than the one before; and the prompt tokens that its only step computes.
        self._step = 0
        self._planned = 0
        self._start_s = 0.0
        self._end_s = math.inf
        self._first_s = 0.0
        self._growth_s = 0.0
        self._chunks: list[tuple[Work, int]] = []
        self._pairs = 0.0
        self._step_s = 0.0

    # ------------------------------------------------------------------ what callers do

    def submit(self, work: Work, now: float) -> None:
        """``work`` joins the queue; an idle engine begins with it at once.

        Raises ``TooLarge`` or ``EngineFull``. Call ``advance(now)`` first to see events in order.
        """
        if work.prompt_tokens < 1 or work.output_tokens < 1:
            raise ValueError("a request has a prompt and an output")
        self._run(now)
        if work.work_id in self._works:
            raise ValueError(f"{work.work_id!r} is here already")
        block = self._block
        most = -(-(work.prompt_tokens + work.output_tokens - 1) // block) + self._window
        if most > self.cache.total:
            raise TooLarge(f"{most} KV blocks of {self.cache.total}")
        if self._waiting_count >= self.limits.max_waiting:
            raise EngineFull(f"{self._waiting_count} requests wait")
        self._works[work.work_id] = work
        self._orders += 1
        work.order = self._orders
        work.to_compute = work.prompt_tokens
        work.computed = work.written = 0
        work.state = _WAITING
        self._waiting_count += 1
        self._prefill_backlog += work.to_compute
        if self._planned:
            done = self._steps_done(now)
            work.ready_step = self._step + done + 2
            self._incoming.append(work)
            self._cut_plan(done + 2)
        else:
            self._enqueue(work)
            self._start_s = now
            if self._halted_s != self._halted_s:
                self._schedule()

    def abort(self, work_id: Hashable, now: float) -> int:
        """Drop a request; tokens that it had written by ``now``, 0 for one that is not here.

        The step in flight still computes it, its blocks are free after that.
        """
        self._run(now)
        work = self._works.pop(work_id, None)
        if work is None:
            return 0
        tokens = self.emitted(work, now)
        if work.state == _WAITING:
            self._waiting_count -= 1
            self._prefill_backlog -= work.to_compute
            work.state = _GONE  # stays in its queue until its turn
            if self._waiting and self._waiting[0][3] is work:
                # Whoever is next may fit where this one did not.
                self._cut_plan(self._steps_done(now) + 1)
        else:
            self._leaving.append(work)
            self._cut_plan(self._steps_done(now) + 1)
        return tokens

    def emitted(self, work: Work, now: float) -> int:
        """Tokens of ``work`` whose step has ended by ``now``, which is not before the last call."""
        if work.state != _DECODING:
            return work.written
        return work.written + self._step - work.decode_origin + self._steps_done(now)

    def emitted_by_each(self, works: Iterable[Work], now: float) -> list[int]:
        """``emitted`` of many at once."""
        made = self.steps_made(now)
        return [
            work.written + made - work.decode_origin if work.state == _DECODING else work.written
            for work in works
        ]

    def next_event_s(self) -> float:
        """When ``advance`` has something to do next; infinite while idle or halted."""
        return self._end_s if self._halted_s != self._halted_s else math.inf

    def advance(self, now: float) -> list[Event]:
        """All that happens up to and including ``now``, in order."""
        if self._end_s <= now:
            self._run(now)
        events = self._events
        if events:
            self._events = []
        return events

    def set_slowdown(self, slowdown: float, now: float) -> None:
        """Steps take ``slowdown`` times as long, from the end of the one in flight on."""
        self._run(now)
        self._slowdown = slowdown
        if self._planned:
            self._cut_plan(self._steps_done(now) + 1)

    def halt(self, now: float) -> None:
        """Nothing goes on, as in an engine that hangs, until ``resume``."""
        self._run(now)
        if self._halted_s != self._halted_s:
            self._halted_s = now

    def resume(self, now: float) -> None:
        """The step in flight goes on where it was when the engine was halted."""
        if self._halted_s != self._halted_s:
            return
        pause_s = now - self._halted_s
        self._halted_s = math.nan
        if self._planned:
            self._start_s += pause_s
            self._end_s += pause_s
        else:
            self._start_s = now
            self._schedule()

    def load(self, now: float) -> EngineLoad:
        """The state as a report of the engine's would tell it at ``now``."""
        done = self._steps_done(now) if self._planned else 0
        free = self.cache.free - (self._new_blocks(self._step + 1, done - 1) if done > 1 else 0)
        return EngineLoad(
            self._decoding + len(self._prefilling),
            self._waiting_count,
            1.0 - free / self.cache.total,
            free * self._block,
            self._pace_s(done),
            self._prefill_backlog,
        )

    def steps_made(self, now: float) -> int:
        """How many steps have ended by ``now``."""
        return self._step + (self._steps_done(now) if self._planned else 0)

    def holds(self, work_id: Hashable, now: float) -> bool:
        """Whether this request is here, and has not ended by ``now``."""
        self._run(now)
        return work_id in self._works

    @property
    def busy(self) -> bool:
        """Whether any request is here."""
        return bool(self._works)

    # ------------------------------------------------------------------ time

    def _run(self, now: float) -> None:
        if self._halted_s == self._halted_s:
            return
        while self._end_s <= now:
            self._settle()
            self._schedule()

    def _time_of(self, steps: int) -> float:
        """Seconds that the plan's first ``steps`` steps take."""
        return steps * self._first_s + 0.5 * self._growth_s * steps * (steps - 1)

    def _steps_done(self, now: float) -> int:
        """Steps of the plan that have ended by ``now``."""
        planned = self._planned
        if self._halted_s == self._halted_s:
            now = min(now, self._halted_s)
        if now >= self._end_s:
            return planned
        if planned <= 1:
            return 0
        passed = now - self._start_s
        if passed < self._first_s:
            return 0
        # The smaller root of growth/2·n² + (first − growth/2)·n = passed, in its stable form.
        half = 0.5 * self._growth_s
        linear = self._first_s - half
        root = math.sqrt(linear * linear + 4.0 * half * passed)
        steps = min(planned, int(2.0 * passed / (linear + root)))
        start = self._start_s
        while steps > 0 and start + self._time_of(steps) > now:
            steps -= 1
        while steps < planned and start + self._time_of(steps + 1) <= now:
            steps += 1
        return steps

    def _pace_s(self, steps: int) -> float:
        """The moving average of the step time after the plan's first ``steps`` steps.

        Steps with prompts in them are left out, as in the engine's host: they tell no pace.
        """
        if not steps or self._chunks:
            return self._step_s
        average_s = self._time_of(steps) / steps
        if not self._step_s:
            return average_s
        weight = 1.0 - (1.0 - STEP_TIME_WEIGHT) ** steps
        return self._step_s + weight * (average_s - self._step_s)

    def _cut_plan(self, steps: int) -> None:
        """End the plan after its first ``steps`` steps, if not before."""
        if steps < self._planned:
            self._planned = steps
            self._end_s = self._start_s + self._time_of(steps)

    # ------------------------------------------------------------------ the end of a run of steps

    def _settle(self) -> None:
        """Book the planned steps: tokens, KV blocks, and what ended with them."""
        steps, now = self._planned, self._end_s
        if self._watch is not None:
            prefill = sum(tokens for _, tokens in self._chunks)
            self._watch(self._decoding, self._kv_tokens, prefill, self._pairs, steps)
        self._step_s = self._pace_s(steps)
        if steps > 1:
            self.cache.take(self._new_blocks(self._step + 1, steps - 1))
        self._step = step = self._step + steps
        self._start_s = now
        self._planned = 0
        self._end_s = math.inf
        self._kv_tokens += self._decoding * steps
        chunks = self._chunks
        if chunks:
            for work, tokens in chunks:
                work.computed += tokens
                self._prefill_backlog -= tokens
        if self._leaving:
            self._drop_leaving()
        ends = self._ends
        while ends and ends[0][0] <= step:
            finish_at, _, work = heapq.heappop(ends)
            if work.state == _DECODING and work.finish_at == finish_at:
                self._stop_decoding(work)
                work.written = work.output_tokens
                self._finish(work, now)
        if chunks:
            self._chunks = []
            for work, _ in chunks:
                if work.computed == work.to_compute and work.state == _PREFILLING:
                    self._prefilling.remove(work)
                    self._first_or_next_token(work, now)

    def _first_or_next_token(self, work: Work, now: float) -> None:
        """The prompt is computed, and with it one token was written."""
        work.written += 1
        if work.first_token_s != work.first_token_s:
            work.first_token_s = now
            self._events.append(Event(EventKind.FIRST_TOKEN, work, now, work.written))
        if work.written == work.output_tokens:
            self._finish(work, now)
            return
        work.state = _DECODING
        work.decode_origin = step = self._step
        work.finish_at = step + work.output_tokens - work.written
        heapq.heappush(self._ends, (work.finish_at, work.order, work))
        self._decoding += 1
        self._kv_tokens += work.computed
        self._begins[(step - work.computed) % self._block] += 1

    def _stop_decoding(self, work: Work) -> None:
        """Take ``work`` out of the decoding ones; ``computed`` becomes what it has in the cache."""
        self._begins[(work.decode_origin - work.computed) % self._block] -= 1
        done = self._step - work.decode_origin
        work.computed += done
        work.written += done
        self._decoding -= 1
        self._kv_tokens -= work.computed

    def _finish(self, work: Work, now: float) -> None:
        work.state = _GONE
        del self._works[work.work_id]
        self._release(work)
        self._events.append(Event(EventKind.FINISHED, work, now, work.written))

    def _drop_leaving(self) -> None:
        for work in self._leaving:
            if work.state == _DECODING:
                self._stop_decoding(work)
            else:
                self._prefilling.remove(work)
                self._prefill_backlog -= work.to_compute - work.computed
            work.state = _GONE
            self._release(work)
        self._leaving = []

    def _release(self, work: Work) -> None:
        """Free what ``work`` holds; what it computed of its text stays in the cache."""
        cache = self.cache
        blocks = -(-work.computed // self._block)
        if not cache.prefix_caching:
            cache.free += blocks + self._window
            return
        own = blocks + self._window
        if work.shared is not None:
            if work.continues:
                cache.publish(work, work.computed // self._block)
            own += work.duplicates - sum(work.shared)
        cache.release(work, own)
        # The layers with a window went through as many blocks as the others, and left them behind.
        if blocks > self._window:
            cache.turn_over(blocks - self._window)

    # ------------------------------------------------------------------ the next run of steps

    def _schedule(self) -> None:
        """Plan what runs next, from `_start_s` on."""
        step = self._step
        incoming = self._incoming
        idle = not self._decoding and not self._prefilling
        while incoming and (idle or incoming[0].ready_step <= step):
            work = incoming.popleft()
            if work.state == _WAITING:
                self._enqueue(work)
        preempted = False
        if self._decoding:
            blocks = self._begins[step % self._block]
            if blocks > self.cache.free or self._prefilling:
                preempted = self._make_room()
                blocks = self._begins[step % self._block]
            if blocks:
                self.cache.take(blocks)
        elif self._prefilling:
            preempted = self._make_room()
        budget = self.limits.max_num_batched_tokens - self._decoding
        if self._prefilling:
            budget = self._continue_prompts(budget)
        again = preempted
        if self._waiting and not preempted:
            again = self._admit(budget)
        if self._chunks:
            self._plan_mixed()
        elif self._decoding:
            self._plan_leap(1 if again else self._max_leap)

    def _enqueue(self, work: Work) -> None:
        heapq.heappush(self._waiting, (work.priority, work.arrived_s, work.order, work))

    def _blocks_of_chunk(self, work: Work, tokens: int) -> int:
        block = self._block
        return -(-(work.computed + tokens) // block) + (-work.computed // block)

    def _make_room(self) -> bool:
        """Preempt until the decoding ones and the begun prompts can go on; whether it had to."""
        preempted = False
        while True:
            needed = self._begins[self._step % self._block] if self._decoding else 0
            budget = self.limits.max_num_batched_tokens - self._decoding
            for work in self._prefilling:
                chunk = min(budget, work.to_compute - work.computed)
                budget -= chunk
                needed += self._blocks_of_chunk(work, chunk)
            if needed <= self.cache.free:
                return preempted
            self._preempt(self._least_important())
            preempted = True

    def _least_important(self) -> Work:
        running = (work for work in self._works.values() if work.state in (_DECODING, _PREFILLING))
        return max(running, key=lambda work: (work.priority, work.arrived_s, work.order))

    def _preempt(self, work: Work) -> None:
        if work.state == _DECODING:
            self._stop_decoding(work)
        else:
            self._prefilling.remove(work)
            self._prefill_backlog -= work.to_compute - work.computed
        self._release(work)
        work.preemptions += 1
        self.preemptions += 1
        work.to_compute = work.prompt_tokens + work.written
        work.computed = 0
        work.state = _WAITING
        self._waiting_count += 1
        self._prefill_backlog += work.to_compute
        self._enqueue(work)
        self._events.append(Event(EventKind.PREEMPTED, work, self._start_s, work.written))

    def _continue_prompts(self, budget: int) -> int:
        for work in self._prefilling:
            chunk = min(budget, work.to_compute - work.computed)
            if not chunk:
                break
            budget -= chunk
            self._compute(work, chunk, self._blocks_of_chunk(work, chunk))
        return budget

    def _compute(self, work: Work, tokens: int, blocks: int) -> None:
        """Plan ``tokens`` prompt tokens of ``work``, for which it takes ``blocks``."""
        self.cache.take(blocks)
        if work.shared is not None:
            self.cache.publish(work, (work.computed + tokens) // self._block)
        self._chunks.append((work, tokens))

    def _admit(self, budget: int) -> bool:
        """Begin with waiting requests while seats, budget and KV blocks last.

        True when the first one left may fit before anything ends: a prompt longer than a step needs
        less at first, the less of it is still in the cache.
        """
        waiting, cache, block = self._waiting, self.cache, self._block
        seats = self.limits.max_num_seqs - self._decoding - len(self._prefilling)
        while waiting and seats > 0 and budget > 0:
            work = waiting[0][3]
            if work.state != _WAITING:
                heapq.heappop(waiting)
                continue
            matched = unheld = 0
            if work.text is not None and cache.prefix_caching:
                # At least one token is computed: the next one follows from it.
                matched, unheld = cache.match(work.text, (work.to_compute - 1) // block)
            cached = matched * block
            chunk = work.to_compute - cached
            if chunk > budget:
                chunk = budget
            blocks = -(-(cached + chunk) // block) - matched + self._window
            if blocks + unheld > cache.free:
                held = matched - unheld
                least = -(-min(held * block + budget, work.to_compute) // block) - held
                return least + self._window <= cache.free
            heapq.heappop(waiting)
            if work.text is not None and cache.prefix_caching:
                cache.hold(work, matched)
                if not work.preemptions:
                    work.cached_tokens = cached
            work.computed = cached
            work.state = _PREFILLING
            self._waiting_count -= 1
            self._prefill_backlog -= cached
            self._prefilling.append(work)
            self._compute(work, chunk, blocks)
            seats -= 1
            budget -= chunk
        return False

    def _plan_mixed(self) -> None:
        tokens, pairs = 0, 0.0
        for work, chunk in self._chunks:
            tokens += chunk
            pairs += chunk * (work.computed + 0.5 * chunk)
        self._pairs = pairs
        seconds = self.steps.step_s(self._decoding, self._kv_tokens, tokens, pairs)
        self._first_s = seconds * self._slowdown
        self._growth_s = 0.0
        self._planned = 1
        self._end_s = self._start_s + self._first_s

    def _plan_leap(self, most: int) -> None:
        """Plan up to ``most`` decode steps, up to the next change: an end, a newcomer's turn, or no
        free block."""
        ends, decoding, step = self._ends, self._decoding, self._step
        while ends[0][2].finish_at != ends[0][0] or ends[0][2].state != _DECODING:
            heapq.heappop(ends)
        steps = min(ends[0][0] - step, most)
        if self._incoming:
            steps = min(steps, self._incoming[0].ready_step - step)
        free = self.cache.free
        if (steps // self._block + 1) * decoding > free:
            steps = min(steps, 1 + self._steps_within(free))
        steps_model = self.steps
        slowdown = self._slowdown
        base_s = steps_model.decode_base_s(decoding)
        self._pairs = 0.0
        self._first_s = slowdown * (base_s + steps_model.kv_token_s * self._kv_tokens)
        self._growth_s = slowdown * steps_model.kv_token_s * decoding
        self._planned = steps
        self._end_s = self._start_s + self._time_of(steps)

    def _new_blocks(self, step: int, steps: int) -> int:
        """Blocks that the decoding ones begin in ``steps`` steps from the step ``step`` on."""
        block, begins = self._block, self._begins
        cycles, rest = divmod(steps, block)
        blocks = cycles * self._decoding
        if rest:
            first = step % block
            last = first + rest
            blocks += sum(begins[first:last])
            if last > block:
                blocks += sum(begins[: last - block])
        return blocks

    def _steps_within(self, free: int) -> int:
        """Steps after the next one for which ``free`` blocks are enough."""
        steps = free // self._decoding * self._block
        left = free - steps // self._block * self._decoding
        while True:
            left -= self._begins[(self._step + 1 + steps) % self._block]
            if left < 0:
                return steps
            steps += 1
