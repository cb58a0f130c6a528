"""Structured logs of our own processes: one JSON object a line on standard error.

Fields are request ids, tiers, pools, replicas and counts. Prompts and replies are never logged.
A request's own line has its figures beside those, see ``deployments/gateway/request_log.py``.
"""

import logging
import sys
import time

import msgspec

FIELDS = ("request_id", "model", "tier", "pool", "replica")
"""Taken from a call's ``extra``; nothing else of it is written but a dict of ``figures``."""


class JsonLines(logging.Formatter):
    _second = 0
    _told = ""

    def _time(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:  # many lines share a second, and strftime is half of a line
            self._told = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._told}.{int(record.msecs):03d}Z"

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self._time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        figures = getattr(record, "figures", None)
        if figures:
            line |= figures
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def set_up_logging(level: str) -> None:
    """Give the ``trireme`` loggers their handler; the root logger stays as its owner set it."""
    logger = logging.getLogger("trireme")
    logger.setLevel(level.upper())
    if not logger.handlers:
        # Ray Serve puts a logger of its own in place of `sys.stderr`, which holds lines back.
        handler = logging.StreamHandler(sys.__stderr__ or sys.stderr)
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
        logger.propagate = False
