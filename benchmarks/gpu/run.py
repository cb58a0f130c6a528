"""Bare vLLM and Trireme side by side with a model of full size: ``benchmarks/gpu/run.sh``.

Runs every stage that is not finished yet, each in a process of its own with ten minutes at most,
and then prints what all of them have found so far. ``--model auto`` takes the largest gpt-oss that
one GPU here holds (random weights, nothing is fetched), and the tiny model where there is none.
``--quick``: one shape, two concurrencies and no mix of tiers; about a minute in all apart from the
engines' starts, of which there are five.
"""

import fnmatch
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.gpu.servers import environment
from benchmarks.gpu.setups import Setup, setup_for
from benchmarks.gpu.stage import Task
from benchmarks.gpu.stages import LIMIT_S, BadResults, Stage, Store, stages
from benchmarks.gpu.summary import summarise
from benchmarks.measure import arguments
from cluster.hardware import Hardware, detect
from cluster.interpreter import command

ENDING_S = 40.0
"""Between asking a stage to end and ending it."""


def run_stage(
    setup: Setup, stage: Stage, task: Task, hardware: Hardware, log: Path, limit_s: float
) -> str:
    """Run it; says what went wrong, or nothing. The log gets all that its process prints."""
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder, log.open("w") as output:
        environ = environment(setup, Path(folder), hardware)
        if "TRIREME_HOME" in os.environ:  # where models are made and kept
            environ["TRIREME_HOME"] = os.environ["TRIREME_HOME"]
        process = subprocess.Popen(
            command("benchmarks.gpu.stage", msgspec.json.encode(task).decode()),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
        )
        late = False
        try:
            process.wait(limit_s - ENDING_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            late = True
            process.terminate()
            try:
                process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if isinstance(error, KeyboardInterrupt):
                raise
    if late:
        return f"ended after {limit_s:.0f} s; run it again to go on"
    if process.returncode != 0:
        return f"failed, see {log}"
    return ""


def run_all(
    setup: Setup, chosen: list[Stage], store: Store, quick: bool, hardware: Hardware
) -> int:
    """How many of the chosen stages failed; those that are finished are not run again."""
    failed = 0
    for number, stage in enumerate(chosen, 1):
        where = f"{number}/{len(chosen)} {stage.name}"
        if store.finished(stage.name):
            print(f"{where}: finished before", flush=True)
            continue
        print(f"{where} …", flush=True)
        began = time.monotonic()
        name = "tiny" if setup.name == "gpt-oss-tiny" else setup.name
        task = Task(name, stage.name, quick, str(store.folder), hardware)
        store.folder.mkdir(parents=True, exist_ok=True)
        log = store.path(stage.name).with_suffix(".log")
        fault = run_stage(setup, stage, task, hardware, log, LIMIT_S)
        failed += bool(fault)
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{where}: {fault or 'finished'} ({took})", flush=True)
    return failed


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--model", default="auto", help="auto, gpt-oss-120b, gpt-oss-20b or tiny")
    parser.add_argument(
        "--results", type=Path, default=Path("gpu-results"), help="folder of results (%(default)s)"
    )
    parser.add_argument("--only", metavar="PATTERN", default="*", help="stages, such as 'bare-*'")
    parser.add_argument("--list", action="store_true", help="say which stages there are, and end")
    options = parser.parse_args()
    hardware = detect(os.environ)
    try:
        setup = setup_for(options.model, hardware)
        # Coarser figures are no start for finer ones.
        folder = (options.results / "quick" if options.quick else options.results).resolve()
        store = Store(folder, setup.name)
        every = stages(setup, quick=options.quick)
        chosen = [each for each in every if fnmatch.fnmatch(each.name, options.only)]
        if not chosen:
            names = ", ".join(each.name for each in every)
            raise ValueError(f"--only: no stage is called {options.only}; there are {names}")
        if options.list:
            for each in chosen:
                print(each.name, "finished" if store.finished(each.name) else "")
            return 0
        failed = run_all(setup, chosen, store, options.quick, hardware)
        summarise(store.all(), options.json)
    except (BadResults, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
