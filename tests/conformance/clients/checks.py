# mypy: ignore-errors
"""Runs a client's cases one by one and tells each on a line; needs nothing but Python itself."""

import asyncio
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CASES = ("chat", "stream", "tools", "structured output", "errors", "retries")
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
CALL = 'CALL get_weather {"city": "Oslo"}'
PERSON = {"name": "Ada", "age": 36}
SAY_PERSON = "SAY " + json.dumps(PERSON)
TOO_LONG = "word " * 140_000
KEY = os.environ.get("TRIREME_CONFORMANCE_KEY", "x")
BUSY_KEY = os.environ.get("TRIREME_CONFORMANCE_BUSY_KEY", KEY)
"""Of a tenant that may have one request at a time, where the server knows tenants."""
RETRIES = 5


def busy(client: str) -> tuple[str, str]:
    """Two messages to be sent at once with ``BUSY_KEY``: one of them or both are refused first."""
    return f"BUSY {client}-1 1", f"BUSY {client}-2 1"


def at_once(ask: Callable[[str], Any], texts: tuple[str, ...]) -> list[Any]:
    """The answers to all ``texts``, each asked in a thread of its own."""
    with ThreadPoolExecutor(len(texts)) as threads:
        return list(threads.map(ask, texts))


def run(client: str, cases: dict[str, Callable[[], Any]]) -> None:
    """``cases`` by name, all of ``CASES``. Ends the process with 1 if one fails."""
    failed = 0
    assert tuple(cases) == CASES, tuple(cases)
    # One loop for all: a client keeps its connections from case to case.
    loop = asyncio.new_event_loop()
    for name, case in cases.items():
        try:
            result = case()
            if inspect.iscoroutine(result):
                loop.run_until_complete(result)
            print(f"ok {client}: {name}")
        except Exception:
            failed += 1
            print(f"FAILED {client}: {name}\n{traceback.format_exc()}")
    sys.exit(1 if failed else 0)
