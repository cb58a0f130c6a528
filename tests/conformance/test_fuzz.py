"""A slice of the cases that schemathesis makes of OpenAI's specification.

The whole: ``python -m benchmarks.conformance --cases 10000``.
"""

import subprocess
from pathlib import Path

import pytest

from tests.conformance.installed import python_with
from tests.conformance.openai_schema import SPEC

CASES = 150
SEED = 10

pytestmark = pytest.mark.timeout(900)


def test_no_case_of_openais_specification_fails(
    request: pytest.FixtureRequest, gateway: str
) -> None:
    python = python_with(request, "schemathesis")
    fuzz = Path(__file__).with_name("fuzz.py")
    done = subprocess.run(
        [str(python), str(fuzz), gateway, str(SPEC), str(CASES), str(SEED)],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    print(done.stdout.splitlines()[-1] if done.stdout else done.stderr[-500:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
