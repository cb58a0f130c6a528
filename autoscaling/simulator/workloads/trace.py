"""Traces in CSV files: the columns that count, their other spellings, and what is wrong in them."""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.config import TIERS, Tier
from cluster.errors import ConfigError, Fault, clipped
from cluster.facts import GPT_OSS_120B

# The first spelling is the one that faults ask for; the others are those of public files.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "time": ("time", "t_s", "time_s"),
    "prompt_tokens": ("prompt_tokens", "input_tokens"),
    "output_tokens": ("output_tokens",),
    "answer_tokens": ("answer_tokens",),
    "tier": ("tier", "reasoning_effort"),
    "tenant": ("tenant",),
    "prefix": ("prefix",),
    "prefix_tokens": ("prefix_tokens",),
}
REQUIRED = ("time", "prompt_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Row:
    """A request of a trace. None where the file does not say."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    answer_tokens: int | None
    tier: Tier | None
    tenant: str | None
    prefix: str
    prefix_tokens: int


LONGEST_PROMPT_TOKENS = GPT_OSS_120B.context_tokens - 1
"""A prompt needs room for one token of output; longer outputs end with the context."""


def read_trace(path: Path, *, skips_too_long: bool = False) -> Iterator[Row]:
    """The rows of `path`, one at a time. Raises `ConfigError` where one cannot be used.

    A prompt that does not fit the model's context is such a row, unless those are skipped.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            parser = _Parser(path, next(reader, []))
            for cells in reader:
                row = parser.row(cells, reader.line_num) if cells else None
                if row is None:
                    continue
                if row.prompt_tokens <= LONGEST_PROMPT_TOKENS:
                    yield row
                elif not skips_too_long:
                    raise parser.too_long(row, reader.line_num)
    except OSError as error:
        problem = f"cannot be read: {(error.strerror or 'unknown reason').lower()}"
        raise ConfigError([Fault(str(path), problem, "name a file that exists")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Fault(str(path), "is not UTF-8 text", "save it as UTF-8")]) from error
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise ConfigError([Fault(where, f"is not CSV: {error}", "correct the line")]) from error


class _Parser:
    """Rows of one file: its header says which cell is what."""

    def __init__(self, path: Path, header: list[str]) -> None:
        self._path = path
        names = [name.strip().lower() for name in header]
        self._at: dict[str, tuple[int, str]] = {}
        for column, spellings in COLUMNS.items():
            found = next((each for each in spellings if each in names), None)
            if found is not None:
                self._at[column] = names.index(found), found
        missing = [column for column in REQUIRED if column not in self._at]
        if missing:
            there = clipped(", ".join(names)) if any(names) else "none"
            raise ConfigError(
                Fault(
                    f"{path}, line 1",
                    f"no column {' or '.join(COLUMNS[column])} (there: {there})",
                    f"name the column {column}",
                )
                for column in missing
            )
        self._width = len(header)
        self._last_s = 0.0

    def row(self, cells: list[str], line: int) -> Row:
        if len(cells) != self._width:
            raise ConfigError(
                [
                    Fault(
                        f"{self._path}, line {line}",
                        f"{len(cells)} cells under {self._width} columns",
                        "write a cell for each column",
                    )
                ]
            )
        at_s = self._time(cells, line)
        answer = self._cell(cells, "answer_tokens")
        prefix_tokens = self._cell(cells, "prefix_tokens")
        return Row(
            at_s,
            self._tokens(cells, line, "prompt_tokens", 1),
            self._tokens(cells, line, "output_tokens", 1),
            self._tokens(cells, line, "answer_tokens", 0) if answer else None,
            self._tier(cells, line),
            self._cell(cells, "tenant") if "tenant" in self._at else None,
            self._cell(cells, "prefix"),
            self._tokens(cells, line, "prefix_tokens", 0) if prefix_tokens else 0,
        )

    def too_long(self, row: Row, line: int) -> ConfigError:
        """What to say of a prompt that no context holds."""
        return self._fault(
            line,
            "prompt_tokens",
            f"{row.prompt_tokens} tokens do not fit the model's context",
            f"write at most {LONGEST_PROMPT_TOKENS}, or set skips_too_long",
        )

    def _cell(self, cells: list[str], column: str) -> str:
        place = self._at.get(column)
        return "" if place is None else cells[place[0]].strip()

    def _fault(self, line: int, column: str, problem: str, remedy: str) -> ConfigError:
        where = f"{self._path}, line {line}, column {self._at[column][1]}"
        return ConfigError([Fault(where, problem, remedy)])

    def _time(self, cells: list[str], line: int) -> float:
        text = self._cell(cells, "time")
        try:
            at_s = float(text)
        except ValueError:
            at_s = math.nan
        if not (math.isfinite(at_s) and at_s >= 0):
            problem = f"'{clipped(text)}' is no time"
            raise self._fault(line, "time", problem, "write seconds since the trace's start")
        if at_s < self._last_s:
            problem = f"{at_s:g} is before the row above ({self._last_s:g})"
            raise self._fault(line, "time", problem, "sort the rows by time")
        self._last_s = at_s
        return at_s

    def _tokens(self, cells: list[str], line: int, column: str, least: int) -> int:
        text = self._cell(cells, column)
        try:
            tokens = int(text)
        except ValueError:
            tokens = -1
        if tokens < least:
            problem = f"'{clipped(text)}' is no number of tokens"
            raise self._fault(line, column, problem, f"write a whole number from {least}")
        return tokens

    def _tier(self, cells: list[str], line: int) -> Tier | None:
        word = self._cell(cells, "tier").lower()
        tier = next((tier for tier in TIERS if tier == word), None)
        if word and tier is None:
            problem = f"'{clipped(word)}' is no tier"
            raise self._fault(line, "tier", problem, f"write one of {', '.join(TIERS)}")
        return tier
