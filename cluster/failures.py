"""Why a cluster did not come up, in a few lines, from Ray Serve's reports and the engines' logs."""

import re
from pathlib import Path

from cluster.run_state import FleetView

_MOST_BYTES = 4 * 1024 * 1024

# vLLM's engine core is a process of its own: its error stands only in its log, under this prefix.
_ENGINE_ERROR = re.compile(
    rb"^\(EngineCore[^)]*\) ERROR [^\]]*\] (\w+(?:Error|Exception): .+)$", re.MULTILINE
)


def start_failure(view: FleetView) -> str:
    """Which deployments failed to start and why, a line each."""
    failed = [each for each in view.deployments if each.status in ("DEPLOY_FAILED", "UNHEALTHY")]
    lines = [f"{each.name} did not start: {last_line(each.message)}" for each in failed]
    return "\n".join(lines) or f"the application did not start: {last_line(view.message)}"


def last_line(text: str) -> str:
    """Of a traceback, the error itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def engine_error(logs: Path) -> str | None:
    """The first error that an engine core wrote to Ray's logs in ``logs``, if any did."""
    for path in sorted(logs.glob("worker-*")):
        try:
            with path.open("rb") as file:
                found = _ENGINE_ERROR.search(file.read(_MOST_BYTES))
        except OSError:
            continue
        if found is not None:
            return f"the engine says: {found[1].decode(errors='replace').strip()}"
    return None
