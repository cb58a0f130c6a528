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


def allowed() -> bool:
    """Whether this machine lets us make network namespaces."""
    tools = all(shutil.which(each) for each in ("ip", "unshare"))
    return tools and subprocess.run(["unshare", "-m", "-n", "true"], check=False).returncode == 0


def run_in_pods(helm: Helm, values: Tree, module: str, home: Path) -> Tree:
    """What the module prints last about the rendered ``values``. Skips, saying why."""
    if not os.environ.get(WANTED):
        pytest.skip(f"{WANTED}=1 runs it: 3 to 5 minutes, on a machine with nothing else to do")
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
    done = subprocess.run(
        [*command, sys.executable, "-m", module, str(manifest)],
        cwd=home,
        env={"PATH": path, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=560,
    )
    logs = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in home.glob("*.log"))
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{logs}"
    print(done.stderr, done.stdout)
    result: Tree = json.loads(done.stdout.splitlines()[-1])
    return result
