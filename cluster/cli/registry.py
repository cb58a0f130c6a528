"""What the commands for tenants and keys share: the store they speak to, and how they print."""

import contextlib
import getpass
import json
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cluster.cli.config import chosen_file
from cluster.cli.console import Fault

if TYPE_CHECKING:
    from cluster.tenants.book import Actor, Book
    from cluster.tenants.orders import Order

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file; ./trireme.yaml where there is one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="[TIER.]NAME=VALUE",
        help="A bound, such as requests_per_minute=600 or high.tokens_per_day=2e6; `none` takes it "
        "away. May be repeated.",
    ),
]

T = TypeVar("T", bound="Order")

DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}


@contextlib.contextmanager
def book(config: Path | None, *, makes_keys: bool = False) -> Iterator["Book"]:
    """The store's tenants and keys, its schema brought up to date. What is wrong with an order, or
    with the store, becomes a ``Fault``."""
    from cluster.loading import load
    from cluster.tenants.book import Book, Conflict, NotThere
    from cluster.tenants.locate import database_url, door_secret
    from cluster.tenants.secret import BadSecret
    from cluster.tenants.store import BadUrl, StoreError, open_store, without_password

    # What is served and on what is of no interest here, so nothing looks for GPUs.
    access = load(chosen_file(config), os.environ).access
    url = database_url(access)
    store = None
    try:
        store = open_store(url)
        store.migrate()
        yield Book(store, door_secret(access) if makes_keys else None)
    except (BadUrl, BadSecret, NotThere, Conflict) as error:
        raise Fault(str(error)) from error
    except (StoreError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise Fault(f"the store {without_password(url)} does not answer: {reason}", 1) from error
    finally:
        if store is not None:
            store.close()


def actor() -> "Actor":
    """Who runs the command, for the audit log."""
    import socket

    from cluster.tenants.book import Actor

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return Actor(f"cli:{user}", socket.gethostname())


def order(kind: type[T], told: dict[str, Any]) -> T:
    """What the options say, checked. Raises ``Fault``."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Fault(f"{place}: {first['msg']}" if place else str(first["msg"])) from error


def limits(given: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """``--limit`` options by tier. Raises ``Fault``."""
    found: dict[str, dict[str, Any]] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        tier, dot, bound = name.strip().rpartition(".")
        number = _number(value.strip())
        if not equals or (number is None and value.strip() != "none"):
            raise Fault(f"--limit {each}: write NAME=NUMBER or NAME=none")
        found.setdefault(tier if dot else "all", {})[bound] = number
    return found


def _number(text: str) -> float | int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else number


def duration_s(text: str | None, option: str) -> float | None:
    """``90d``, ``12h`` or ``30m`` in seconds; None for `never`. Raises ``Fault``."""
    if text is None or text == "never":
        return None
    found = DURATION.fullmatch(text)
    if found is None:
        raise Fault(f"{option} {text}: write a number and s, m, h, d or w, such as 90d")
    return float(found[1]) * SECONDS[found[2]]


def print_json(told: Any) -> None:
    print(json.dumps(told, indent=1))


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns with two blanks between them, as wide as they must be."""
    cells = [head, *([_cell(each) for each in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def _cell(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def day(seconds: float | None) -> str:
    """A time as people read it, in UTC."""
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
