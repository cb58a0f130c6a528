"""``trireme down``: takes a cluster down, also one whose supervisor was killed."""

from typing import Annotated

import typer

from cluster.cli.console import Fault, chosen


def down(
    name: Annotated[str | None, typer.Option(help="Name of the cluster.")] = None,
) -> None:
    """Take the cluster down; nothing of it stays behind."""
    from cluster.background import stop

    record = chosen(name)
    if not stop(record):
        print(f"cluster {record.name} is not up")
        return
    if record.is_held():
        raise Fault(f"cluster {record.name} did not end", 1)
    print(f"cluster {record.name} is down")
