"""Unix time that does not jump when a clock is set."""

import time
from collections.abc import Callable


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970 as of this call, carried on by the monotonic clock.

    Windows of a minute would otherwise let everything through when the clock is set forward, and
    nothing for as long as it is set back.
    """
    ahead_s = time.time() - time.monotonic()
    return lambda: ahead_s + time.monotonic()
