"""``trireme sbom``: what this installation is made of."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.version import own_version


def sbom(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write to FILE, not to the screen.")
    ] = None,
) -> None:
    """Print a bill of materials of the installed environment (CycloneDX 1.6, JSON)."""
    from cluster.sbom import bill, installed

    text = bill(own_version(), installed())
    if out is None:
        print(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
