"""Cases made of OpenAI's specification by schemathesis, against a gateway: how many, what failed.

The gateway is door and vLLM's front-end over a scripted model, in a process of its own; or any
other with ``--url``. schemathesis must be installed in the Python of ``--python`` (this one if not
given).

Run: ``python -m benchmarks.conformance --cases 10000 [--seed N]``.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments.tiny_model import make_tiny_model
from tests.conformance.openai_schema import SPEC

FUZZ = SPEC.with_name("fuzz.py")


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
    # The last argument is for each of the two routes with bodies.
    each = max(1, options.cases // 2)
    arguments = [url, str(SPEC), str(each), str(options.seed)]
    return subprocess.call([options.python, str(FUZZ), *arguments])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
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
