"""``python -m tests.chaos``: many faults against gateways and engines in this process."""

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.chaos.harness import Report, run
from tests.chaos.plan import KINDS, Fault


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same faults")
    parser.add_argument("--clients", type=int, default=6, help="streams at a time, each gateway")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these kinds of faults")
    parser.add_argument("--json", type=Path, help="write the report there")
    args = parser.parse_args()
    logging.disable(logging.ERROR)  # hundreds of lines about faults that were asked for
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        bar = progress.add_task("faults", total=args.faults)

        def told(fault: Fault, violations: int) -> None:
            progress.update(bar, advance=1, description=f"{fault.kind:<9} {violations} violations")

        kinds = tuple(args.kind) if args.kind else None
        report = asyncio.run(
            run(args.faults, args.seed, kinds=kinds, clients=args.clients, on_fault=told)
        )
    if args.json:
        args.json.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    show(report, console)
    return 1 if report.violations else 0


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
