"""What runs inside Ray Serve's controller: it reads a number, and nothing else.

Serve calls its autoscaling policies in the controller's own event loop, ten times a second. One
that raises, or takes long, stops the controller for every application of the cluster (both were
seen). So a thread fetches what the autoscaler has written, and a call only looks at it; whatever
goes wrong, the answer is the size that is in force.

Serve pickles this module by value: it must not hold state, and imports little.
"""

import json
import logging
import threading
import time
from typing import Any

FETCH_S = 1.0
"""How often the written number is looked up."""

OLD_S = 180.0
"""A number that was written longer ago (by the head's clock) is not followed: the size stays."""

LARGEST = 4096


class ReadWanted:
    """Serve makes one for each deployment, with ``key``: where the pool's number is written."""

    def __init__(self, key: str = "", **_: Any) -> None:
        self._key = key
        self._wanted: tuple[int, float] | None = None
        self._thread: threading.Thread | None = None

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The wanted size, or the one in force. Never raises, never waits."""
        try:
            self._keep_fetching()
            wanted = self._wanted
            if wanted is not None and time.monotonic() - wanted[1] < OLD_S:
                return wanted[0], {}
        except Exception:
            logging.getLogger("ray.serve").exception("the pool's size stays as it is")
        return context.target_num_replicas, {}

    def _keep_fetching(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._fetch_for_ever, name="trireme-wanted", daemon=True
            )
            self._thread.start()

    def _fetch_for_ever(self) -> None:
        while True:
            try:
                self._fetch()
            except Exception:
                # The head is away, or the number is nonsense: what is known ages.
                logging.getLogger("ray.serve").debug("no size was read", exc_info=True)
            time.sleep(FETCH_S)

    def _fetch(self) -> None:
        from deployments.compat import board

        written = board.read(self._key)
        if written is None:
            return
        told = json.loads(written)
        wanted, at_s = int(told["wanted"]), float(told["at_s"])
        if not 0 <= wanted <= LARGEST:
            raise ValueError(f"{wanted} replicas")
        age_s = max(0.0, time.time() - at_s)
        self._wanted = wanted, time.monotonic() - age_s
