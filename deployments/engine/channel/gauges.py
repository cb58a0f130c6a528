"""The counters of a process's channels, kept level with what those have counted."""

from cluster.metrics import Metrics
from deployments.engine.channel.framing import traffic


class TrafficMetrics:
    """Frames and bytes, in and out; the rows are ``cluster.metrics.CHANNEL_METRICS``."""

    def __init__(self, metrics: Metrics) -> None:
        frames = metrics.counter("trireme_channel_frames")
        sizes = metrics.counter("trireme_channel_bytes")
        self._counters = (
            (frames.labels("in"), "frames_in"),
            (frames.labels("out"), "frames_out"),
            (sizes.labels("in"), "bytes_in"),
            (sizes.labels("out"), "bytes_out"),
        )
        self._seen = dict.fromkeys((name for _, name in self._counters), 0)

    def observe(self) -> None:
        """Add what has passed since the last time."""
        for counter, name in self._counters:
            total = getattr(traffic, name)
            counter.inc(total - self._seen[name])
            self._seen[name] = total
