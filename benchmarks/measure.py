"""What the benchmarks share: CPU seconds of processes, a table, and the ``--json`` file."""

import argparse
import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="at most a minute, coarser figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write name → figure to FILE")
    return parser


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have used so far; gone ones count 0."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += _cpu_s(pid)
    return total


def _cpu_s(pid: int) -> float:
    threads = Path(f"/proc/{pid}/task")
    if threads.is_dir():
        # Nanoseconds on a CPU; the times of /proc/<pid>/stat come in hundredths of a second.
        nanoseconds = 0
        for each in threads.glob("*/schedstat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended
                nanoseconds += int(each.read_text().split()[0])
        return 1e-9 * nanoseconds
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def report(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], figures: dict[str, float],
    json_file: Path | None,
) -> None:  # fmt: skip
    """Print the table; write the figures if asked to."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")
