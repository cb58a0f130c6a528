"""What `up` prints, on a terminal, in a pipe, and when nobody is there to read it."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from cluster.progress import Progress


def test_in_a_pipe_a_phase_is_one_plain_line_with_its_seconds_and_last_news() -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out))
    with progress.phase("weights"):
        progress.news("looking")
        progress.tick()
        progress.news("found [red]them[/red]")
    assert out.getvalue() == "weights          0.0 s   found [red]them[/red]\n"


def test_a_phase_that_fails_has_no_final_line() -> None:
    out = io.StringIO()
    with pytest.raises(KeyError), Progress(Console(file=out)).phase("ray"):
        raise KeyError
    assert out.getvalue() == ""


def test_long_lines_stay_whole_so_that_they_can_be_pasted() -> None:
    out = io.StringIO()
    Progress(Console(file=out, width=40)).say("curl " + "x" * 200)
    assert out.getvalue() == "curl " + "x" * 200 + "\n"


def test_a_reader_that_has_gone_does_not_stop_the_work() -> None:
    script = """
import os, sys
from rich.console import Console
from cluster.progress import Progress
read_end, write_end = os.pipe()
os.close(read_end)
os.dup2(write_end, 1)
Progress(Console()).say("stopping")
os.write(2, b"went on")
os._exit(0)
"""
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert answer.stderr == "went on"
