"""The content log of a gateway: an ASGI layer over the door, a bounded queue, and a thread.

Nothing of this exists while ``content_log.enabled`` is off. When it is on, the event loop keeps
references to what it receives and sends; all else (joining, redacting, writing) is the thread's.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from cluster.config import ContentLogConfig, TriremeConfig
from cluster.metrics import Metrics
from cluster.run_state import state_dir
from deployments.gateway.content_log.answers import SLACK_CHARS
from deployments.gateway.content_log.files import DayFiles
from deployments.gateway.content_log.recording import Facts, Recording
from deployments.gateway.content_log.redact import Redactor, TooSlow
from deployments.gateway.context import RequestContext, current_request
from deployments.gateway.contract.asgi import ASGIApp, Receive, Scope, Send

log = logging.getLogger("trireme.gateway")

FOLDER = "content-log"
REDACT_S = 1.0
"""Longest time that the patterns may take for one text; then it is withheld."""

LOOK_S = 60.0
"""How often the thread of an idle gateway looks at the date, so that old days are deleted."""

STOP_S = 10.0

_recording: ContextVar[Recording | None] = ContextVar("trireme_recording", default=None)

Entry = tuple[Recording, list[bytes], Facts | None, int]
"""More of an answer; with ``Facts`` it was the last; and the bytes that wait with it."""


class ContentLog:
    """``counted`` is told what became of each record, from any thread: ``written``, ``withheld``,
    ``dropped`` or ``failed``. ``now`` tells the time in UTC."""

    def __init__(
        self,
        config: ContentLogConfig,
        files: DayFiles,
        counted: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._tenants = None if config.tenants is None else frozenset(config.tenants)
        self._limit_bytes = config.max_bytes_per_record
        self._max_queue_bytes = config.max_queue_bytes
        self._redactor = Redactor(config.redact, limit_s=REDACT_S)
        self._files = files
        self._counted = counted
        self._now = now
        self._queue: deque[Entry] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._broken = False
        self._thread = threading.Thread(target=self._run, name="content-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What waits is written when it returns, if that takes no longer than ``STOP_S``."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(STOP_S)

    # -------------------------------------------------------------- on the event loop

    def over(self, app: ASGIApp) -> ASGIApp:
        """``app``, whose requests are recorded. It must call ``done`` in each one's own task."""

        async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            recording = Recording(self._limit_bytes, self._hand_over)
            before = _recording.set(recording)
            try:
                await app(scope, recording.receiving(receive), recording.sending(send))
            finally:
                _recording.reset(before)

        return recorded

    def done(self, context: RequestContext, status: int) -> None:
        """A request is over. Kept are those that the door has let through."""
        recording = _recording.get()
        if recording is None or not self._wants(context):
            return
        caller = context.caller
        facts = Facts(
            context.request_id,
            "" if caller is None else caller.tenant,
            "" if caller is None else caller.key_id,
            context.model,
            context.route,
            context.tier,
            status,
        )
        if recording.lost or not self._put(recording, facts):
            self._counted("dropped")

    def _wants(self, context: RequestContext) -> bool:
        if not context.model:
            return False
        tenants = self._tenants
        return tenants is None or (context.caller is not None and context.caller.tenant in tenants)

    def _hand_over(self, recording: Recording) -> None:
        context = current_request.get(None)
        wanted = context is not None and self._wants(context)
        recording.lost = not (wanted and self._put(recording, None))

    def _put(self, recording: Recording, facts: Facts | None) -> bool:
        parts = recording.take_parts()
        size = sum(map(len, parts))
        if facts is not None:
            size += sum(map(len, recording.body))
        with self._changed:
            if self._queued_bytes + size > self._max_queue_bytes:
                return False
            self._queued_bytes += size
            self._queue.append((recording, parts, facts, size))
            self._changed.notify()
        return True

    # -------------------------------------------------------------- the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._queue and not self._stopping:
                    self._changed.wait(LOOK_S)
                entry = self._queue.popleft() if self._queue else None
                stopping = self._stopping
            try:
                self._files.turn_to(self._now().date())
                if entry is not None:
                    self._take(entry)
                self._broken = False
            except Exception as error:
                # Never the error's text: it may hold what was to be written.
                if not self._broken:
                    log.error("the content log cannot be written: %s", type(error).__name__)
                self._broken = True
                if entry is not None and entry[2] is not None:
                    self._counted("failed")
            if entry is not None:
                with self._changed:
                    self._queued_bytes -= entry[3]
            elif stopping:
                self._files.close()
                return

    def _take(self, entry: Entry) -> None:
        recording, parts, facts, _ = entry
        recording.absorb(parts, self._limit_bytes + SLACK_CHARS)
        if facts is None:
            return
        record: dict[str, Any] = {
            "at": self._now().isoformat(timespec="milliseconds"),
            **msgspec.to_builtins(facts),
        }
        outcome = "written"
        try:
            content = self._content(recording)
        except TooSlow:
            content, outcome = {"withheld": True}, "withheld"
        self._files.append(msgspec.json.encode(record | content) + b"\n")
        self._counted(outcome)

    def _content(self, recording: Recording) -> dict[str, Any]:
        content = self._json("request", b"".join(recording.body), cut=False)
        if not recording.streams:
            cut = len(recording.raw) > self._limit_bytes
            return content | self._json("answer", bytes(recording.raw), cut=cut)
        items: dict[int, dict[str, Any]] = {}
        for index, kind, text in recording.answer.texts():
            clean = self._redactor.text(text)
            if recording.answer.cut:
                clean = clean[: max(0, len(clean) - SLACK_CHARS)]
            items.setdefault(index, {"index": index})[kind] = clean
        name = "answer_cut" if recording.answer.cut else "answer"
        return content | {name: list(items.values())}

    def _json(self, name: str, data: bytes, *, cut: bool) -> dict[str, Any]:
        """A body as JSON, or its beginning as a string."""
        clean = self._redactor.json(data)
        if not cut and len(clean) <= self._limit_bytes:
            return {name: msgspec.Raw(clean.encode() or b"null")}
        return {f"{name}_cut": clean[: self._limit_bytes]}


def make_content_log(
    config: TriremeConfig,
    gateway_id: str,
    metrics: Metrics,
    environ: Mapping[str, str] = os.environ,
) -> ContentLog | None:
    """None unless it is enabled."""
    settings = config.content_log
    if not settings.enabled:
        return None
    folder = Path(settings.folder) if settings.folder else state_dir(environ) / FOLDER
    records = metrics.counter("trireme_content_log_records")
    return ContentLog(
        settings,
        DayFiles(folder, gateway_id, settings.retain_days),
        lambda outcome: records.labels(outcome).inc(),
    )
