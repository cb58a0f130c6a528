"""The watchdog tells how long the event loop was held up."""

import asyncio
import time

from cluster.metrics import GATEWAY_METRICS, Metrics
from deployments.gateway.loop_lag import INTERVAL_S, LoopLag

HELD_S = 0.3


async def test_a_held_loop_is_told_and_counted() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    lag = LoopLag(metrics.histogram("trireme_event_loop_lag_seconds"))
    lag.start()
    await asyncio.sleep(2 * INTERVAL_S)
    time.sleep(HELD_S)  # noqa: ASYNC251 -- what it must notice
    await asyncio.sleep(2 * INTERVAL_S)
    await lag.stop()
    # The hold-up may have begun just before a look was due, or just after one.
    assert lag.worst_s >= HELD_S - INTERVAL_S
    looks = metrics.registry.get_sample_value("trireme_event_loop_lag_seconds_count")
    total_s = metrics.registry.get_sample_value("trireme_event_loop_lag_seconds_sum")
    assert looks is not None
    assert total_s is not None
    assert looks >= 2
    assert total_s >= lag.worst_s
