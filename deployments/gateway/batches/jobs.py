"""What is done of a batch as a whole: its input is checked, its files are written. In a thread."""

import time
import uuid
from collections.abc import Callable, Iterable

from cluster.batches.files import Files, NewFile
from cluster.batches.folder import Folder
from cluster.batches.lines import MAX_ERRORS, LineFault, check_line, unanswered_line
from cluster.batches.states import why_over
from cluster.batches.views import Batch
from cluster.batches.work import ROWS, LeaseLost, NewLine, Work
from cluster.config import BatchConfig

PAUSE_LINES = 100
"""After so many lines the thread sleeps as long as it worked, at least: the gateway's streams
share the interpreter with it."""

WRITE_BYTES = 1 << 20


class Jobs:
    """``max_line_bytes`` is what a request's body may have."""

    def __init__(
        self,
        work: Work,
        files: Files,
        folder: Folder,
        config: BatchConfig,
        max_line_bytes: int,
        stopping: Callable[[], bool],
    ) -> None:
        self._work = work
        self._files = files
        self._folder = folder
        self._config = config
        self._max_line_bytes = max_line_bytes
        self._stopping = stopping
        self._retain_s = config.retain_days * 86_400.0

    def step(self) -> bool:
        """Do one job, if there is one. A batch that another gateway took over is left to it."""
        try:
            batch = self._work.claim("validating")
            if batch is not None:
                self._check(batch)
                return True
            batch = self._work.claim("ending")
            if batch is not None:
                self._end(batch)
                return True
        except LeaseLost:
            return True
        return False

    def sweep(self) -> None:
        """Delete what is too old, and what is left of batches that are over."""
        self._work.sweep(self._retain_s)
        for file_id in self._files.expired(100):
            self._folder.delete(file_id)
            self._files.forget(file_id)

    # -------------------------------------------------------------- the input

    def _check(self, batch: Batch) -> None:
        self._work.begin_check(batch)
        errors: list[LineFault] = []
        models: set[str] = set()
        try:
            total = self._read(batch, errors, models)
        except FileNotFoundError:
            errors, total = [LineFault("invalid_input_file", "The input file is gone.")], 0
        if not errors and not total:
            errors.append(LineFault("empty_file", "The input file has no requests."))
        if errors:
            self._work.reject(batch, [each.as_dict() for each in errors])
        else:
            model = models.pop()[:256] if len(models) == 1 else ""
            self._work.accept(batch, total, model)

    def _read(self, batch: Batch, errors: list[LineFault], models: set[str]) -> int:
        config, seen = self._config, set[str]()
        found: list[NewLine] = []
        at_byte = number = 0
        began = time.monotonic()
        lines = self._folder.lines(batch.input_file_id, self._max_line_bytes)
        for place, raw in enumerate(lines, start=1):
            if place % PAUSE_LINES == 0:
                time.sleep(max(0.001, time.monotonic() - began))
                began = time.monotonic()
                if self._stopping():
                    raise LeaseLost
            size, text = len(raw), raw.strip()
            if text:
                if number >= config.max_lines:
                    message = f"An input file has at most {config.max_lines} requests."
                    errors.append(LineFault("too_many_requests_in_file", message))
                    return number
                try:
                    checked = check_line(text, place, batch.endpoint, self._max_line_bytes)
                    _only_once(checked.custom_id, place, seen)
                except LineFault as fault:
                    errors.append(fault)
                    if len(errors) >= MAX_ERRORS:
                        return number
                else:
                    if len(models) < 2:
                        models.add(checked.model)
                    start = at_byte + raw.index(text[:1])
                    found.append(NewLine(number, checked.custom_id, start, len(text)))
                number += 1
            at_byte += size
            if len(found) >= ROWS and not errors:
                self._work.add_lines(batch, found)
                found = []
        if found and not errors:
            self._work.add_lines(batch, found)
        return number

    # -------------------------------------------------------------- the files

    def _end(self, batch: Batch) -> None:
        output = errors = None
        try:
            output = self._write(batch, "output", self._work.answers(batch, ok=True))
            errors = self._write(batch, "error", self._failed(batch))
            self._work.finish(batch, output, errors, self._retain_s)
        except BaseException:
            for file in (output, errors):
                if file is not None:
                    self._folder.delete(file.id)
            raise
        self._work.sweep(self._retain_s)

    def _failed(self, batch: Batch) -> Iterable[bytes]:
        yield from self._work.answers(batch, ok=False)
        if batch.total:
            code, message = why_over(batch.outcome)
            for number, custom_id in self._work.unanswered(batch):
                yield unanswered_line(batch.id, number, custom_id, code, message)

    def _write(self, batch: Batch, kind: str, lines: Iterable[bytes]) -> NewFile | None:
        """None if there are no lines."""
        file_id = f"file-{uuid.uuid4().hex}"
        writer = self._folder.create(file_id)
        try:
            parts: list[bytes] = []
            size = 0
            for line in lines:
                parts.append(line)
                size += len(line)
                if size >= WRITE_BYTES:
                    writer.write(b"".join(parts))
                    parts, size = [], 0
                    if self._stopping():
                        raise LeaseLost
            writer.write(b"".join(parts))
            if not writer.size_bytes:
                writer.discard()
                return None
            writer.close()
        except BaseException:
            writer.discard()
            raise
        name = f"{batch.id}_{kind}.jsonl"
        return NewFile(file_id, batch.owner.tenant, "batch_output", name, writer.size_bytes)


def _only_once(custom_id: str, place: int, seen: set[str]) -> None:
    if custom_id in seen:
        message = "The `custom_id` of this line is that of an earlier one."
        raise LineFault("duplicate_custom_id", message, place, "custom_id")
    seen.add(custom_id)
