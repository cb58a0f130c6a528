"""Runs what needs pods, where it is wanted and the machine allows it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helm.toolbox import ROOT, Helm, Tree

WANTED = "TRIREME_TEST_PODS"
LAST = {"said.log": 5_000, "told.log": 40_000, "autoscaler.log": 20_000}
"""Characters that are shown of a log after a failure; of others a few."""

LONGEST_S = 1500
"""Five times what it takes where nothing else runs: with four busy processes beside it on two
cores, a cluster took some 3 minutes instead of 1 to answer."""


def allowed() -> bool:
    """Whether this machine lets us make network namespaces."""
    tools = all(shutil.which(each) for each in ("ip", "unshare"))
    return tools and subprocess.run(["unshare", "-m", "-n", "true"], check=False).returncode == 0


def run_in_pods(helm: Helm, values: Tree, module: str, home: Path) -> Tree:
    """What the module prints last about the rendered ``values``. Skips, saying why."""
    if not os.environ.get(WANTED):
        pytest.skip(f"{WANTED}=1 runs it: 3 to 5 minutes, where nothing else runs")
    if not allowed():
        pytest.skip("no network namespaces here: root, `ip` and `unshare` are needed")
    if ROOT.is_relative_to("/tmp"):
        pytest.skip("each pod has a /tmp of its own, and this clone lies there")
    manifest = home / "manifest.yaml"
    rendered = helm.render(values=values)
    assert rendered.returncode == 0, rendered.stderr
    manifest.write_text(rendered.stdout)
    command = ["unshare", "-m", "-n", "-p", "-f", "--kill-child", "--mount-proc"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    late = ""
    with (home / "said.log").open("w") as said:
        try:
            done = subprocess.run(
                [*command, sys.executable, "-m", module, str(manifest)],
                cwd=home,
                env={"PATH": path, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"},
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                check=False,
                timeout=LONGEST_S,
            )
        except subprocess.TimeoutExpired:
            late = f"not done within {LONGEST_S} s"
    logs = "\n".join(f"{log.name}: {last_of(log)}" for log in sorted(home.glob("*.log")))
    assert not late, f"{late}\n{logs}"
    assert done.returncode == 0, logs
    print((home / "said.log").read_text(), done.stdout)
    result: Tree = json.loads(done.stdout.splitlines()[-1])
    return result


def last_of(log: Path) -> str:
    """The end of it, to be shown after a failure."""
    return log.read_text(errors="replace")[-LAST.get(log.name, 1500) :]
