"""``trireme metrics``: the metric table, and the files that are generated from it."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import Fault, tell

ROOT = Path(__file__).resolve().parents[2]


def metrics(
    write: Annotated[
        bool, typer.Option("--write", help="Write docs/metrics.md, dashboards and rules.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Fail if one of these files is not up to date.")
    ] = False,
) -> None:
    """Print every metric that Trireme exports, or keep what is generated from them."""
    if not write and not check:
        from cluster.telemetry.document import document

        print(document(), end="")
        return
    from cluster.telemetry.generate import files

    old = [path for path, text in files().items() if _read(ROOT / path) != text]
    if check and old:
        raise Fault(f"out of date: {', '.join(old)} (run ./trireme metrics --write)", 1)
    for path, text in files().items() if write else ():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
    tell(f"{len(old)} files written" if write else "all files are up to date")


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None
