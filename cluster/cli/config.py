"""Look at the configuration."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import Fault

FileArgument = Annotated[
    Path | None,
    typer.Argument(help="The file; ./trireme.yaml where there is one, else the defaults."),
]

DEFAULT_FILE = Path("trireme.yaml")


def chosen_file(given: Path | None) -> Path | None:
    """The file that counts: as given, else ``TRIREME_CONFIG``, else ./trireme.yaml if there."""
    if given is None and os.environ.get("TRIREME_CONFIG"):
        given = Path(os.environ["TRIREME_CONFIG"])
    if given is not None:
        if given.is_dir():
            raise Fault(f"{given} is a folder; name a file")
        return given
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def described(file: Path | None) -> str:
    return "built-in defaults" if file is None else str(file)
