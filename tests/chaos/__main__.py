"""``python -m tests.chaos``: many faults against gateways and engines in this process, or with
``--simulated`` against the simulator's."""

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.chaos import harness, simulated
from tests.chaos.harness import Report, quantile, wilson_upper
from tests.chaos.plan import KINDS, Fault


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same faults")
    parser.add_argument("--clients", type=int, default=6, help="streams at a time, each gateway")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these kinds of faults")
    parser.add_argument("--simulated", action="store_true", help="in virtual time; seeds count on")
    parser.add_argument("--vllm", action="store_true", help="against real engines (on the CPU)")
    parser.add_argument("--processes", type=int, default=2, help="for --simulated")
    parser.add_argument("--json", type=Path, help="write the report there")
    args = parser.parse_args()
    logging.disable(logging.ERROR)  # hundreds of lines about faults that were asked for
    console = Console(stderr=True)
    if args.simulated:
        return in_the_simulator(args, console)
    with bars(console) as progress:
        bar = progress.add_task("faults", total=args.faults)

        def told(fault: Fault, violations: int) -> None:
            progress.update(bar, advance=1, description=f"{fault.kind:<9} {violations} violations")

        run = harness_for(vllm=args.vllm)
        kinds = tuple(args.kind) if args.kind else None
        report = asyncio.run(
            run(args.faults, args.seed, kinds=kinds, clients=args.clients, on_fault=told)
        )
    if args.json:
        args.json.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    show(report, console)
    return 1 if report.violations else 0


def harness_for(*, vllm: bool) -> Any:
    if not vllm:
        return harness.run
    from tests.chaos.real import run_with_vllm  # vLLM takes 20 s to import

    return run_with_vllm


def bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def in_the_simulator(args: argparse.Namespace, console: Console) -> int:
    with bars(console) as progress:
        bar = progress.add_task("faults", total=args.faults)

        def told(found: simulated.Found) -> None:
            done = min(args.faults, found.faults.total())
            progress.update(bar, completed=done, description=f"{len(found.violations)} violations")

        found = simulated.run(args.faults, args.seed, args.processes, told)
    stalls_s = {
        kind: {f"p{100 * q:g}_s": round(quantile(values, q), 3) for q in (0.5, 0.99, 1.0)}
        for kind, values in found.stalls_s.items()
    }
    bound = wilson_upper(len(found.violations), found.streams)
    say = console.print
    say(f"{found.faults.total()} faults {dict(found.faults)}, seeds from {args.seed} on")
    say(f"{found.streams} streams and {found.tokens} tokens checked")
    for kind, figures in stalls_s.items():
        say(f"  {kind:<10} {len(found.stalls_s[kind]):>6} went on elsewhere, stalls {figures}")
    style = "red" if found.violations else "green"
    say(f"violations: {len(found.violations)}", style=style)
    for violation in found.violations[:20]:
        say(f"  {violation}", style="red", markup=False)
    say(f"share of streams that go wrong: below {bound:.2e} (Wilson, 95 %)")
    if args.json:
        report: dict[str, object] = {
            "faults": dict(found.faults),
            "streams": found.streams,
            "tokens": found.tokens,
            "continued": {kind: len(values) for kind, values in found.stalls_s.items()},
            "stalls_s": stalls_s,
            "violations": found.violations,
            "failed_upper_bound": bound,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if found.violations else 0


def show(report: Report, console: Console) -> None:
    """The report, for a person."""
    say = console.print
    say(f"{report.faults} faults in {report.seconds:.0f} s, seed {report.seed}")
    say(f"{report.streams} streams and {report.tokens} tokens checked")
    say(f"{report.continued} continued elsewhere, {report.quarantined} refused as poison")
    say(
        f"stalls: p50 {report.stall_p50_s:.3f} s, p99 {report.stall_p99_s:.3f} s, "
        f"longest {report.stall_max_s:.3f} s"
    )
    for kind, figures in report.stalls_by_kind.items():
        say(
            f"  {kind:<10} {figures['continued']:>6.0f} continued, "
            f"p50 {figures['p50_s']:.3f} s, p99 {figures['p99_s']:.3f} s"
        )
    say(f"violations: {len(report.violations)}", style="red" if report.violations else "green")
    for violation in report.violations:
        say(f"  {violation}", style="red", markup=False)
    say(f"share of streams that go wrong: below {report.failed_upper_bound:.2e} (Wilson, 95 %)")


if __name__ == "__main__":
    sys.exit(main())
