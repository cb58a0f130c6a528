"""What rendering the present request will cost, told by the door to whoever renders it."""

from contextvars import ContextVar

INLINE_S = 0.005
"""What costs more is rendered in another process: one such render is no longer than a few chunks of
other streams, and going to another process costs 1 ms by itself."""

render_cost_s: ContextVar[float] = ContextVar("trireme_render_cost_s", default=0.0)
"""Estimated seconds of Harmony's tokenizer."""
