"""Structured logs of our own processes: one JSON object a line on standard error.

Fields are request ids, tiers, pools, replicas and counts. Prompts and replies are never logged.
A request's own line has its figures beside those, see ``deployments/gateway/request_log.py``.
"""

import json
import logging
import sys
import time

FIELDS = ("request_id", "model", "tier", "pool", "replica")
"""Taken from a call's ``extra``; nothing else of it is written but a dict of ``figures``."""


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
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
        return json.dumps(line, ensure_ascii=False)


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
