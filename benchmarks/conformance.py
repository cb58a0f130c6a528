"""Cases made of OpenAI's specification by schemathesis, against a gateway: how many, what failed.

The gateway is door and vLLM's front-end over a scripted model, in a process of its own; or any
other with ``--url``. schemathesis must be installed in the Python of ``--python`` (this one if not
given).

Run: ``python -m benchmarks.conformance --cases 10000 [--seed N]``.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import arguments, report
from deployments.tiny_model import make_tiny_model
from tests.conformance.openai_schema import SPEC

FUZZ = SPEC.with_name("fuzz.py")
QUICK_CASES = 200
SUMMARY = re.compile(r"cases (\d+), failures (\d+), statuses (.*)")


@contextmanager
def gateway() -> Iterator[str]:
    """The base URL of one."""
    with tempfile.TemporaryDirectory() as home:
        directory = make_tiny_model(Path(home) / "model")
        command = [sys.executable, "-m", "tests.conformance.server", str(directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield next(line.strip() for line in process.stdout if line.startswith("http://"))
            finally:
                process.kill()


def run(url: str, options: argparse.Namespace) -> int:
    """Make the cases and print what they found; the exit status is 1 if any failed."""
    # The last argument is for each of the two routes with bodies.
    each = max(1, (QUICK_CASES if options.quick else options.cases) // 2)
    command = [options.python, str(FUZZ), url, str(SPEC), str(each), str(options.seed)]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line
            if not SUMMARY.match(line):
                print(line, end="")
    found = SUMMARY.match(last)
    if found is None:
        return process.returncode or 1
    figures = {"cases": float(found[1]), "failures": float(found[2])}
    statuses = dict(each.split(": ") for each in found[3].strip().split(", "))
    figures |= {f"answers {status}": float(count) for status, count in statuses.items()}
    rows = [(name, f"{value:.0f}") for name, value in figures.items()]
    report("Cases made of OpenAI's specification", ("", "count"), rows, figures, options.json)
    return process.returncode


def main() -> None:
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", help="of a gateway that runs; its model must be called tiny")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    if options.url is not None:
        sys.exit(run(options.url, options))
    with gateway() as url:
        code = run(url, options)
    sys.exit(code)


if __name__ == "__main__":
    main()
