"""Usage: who used how much, and what it cost by the configured prices."""

import csv
import json
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from cluster.cli.config import chosen_file
from cluster.cli.console import Fault
from cluster.cli.registry import ConfigOption


class Format(StrEnum):
    """How a report is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


SUMS = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "analysis_tokens",
    "final_tokens",
    "gpu_seconds",
    "cost",
)


def report(
    by: Annotated[
        str,
        typer.Option(
            help="Comma-separated: tenant, team, project, key, model, tier, asked, outcome, day."
        ),
    ] = "tenant",
    month: Annotated[
        str | None, typer.Option(help="Such as 2026-11 (UTC); this one if none.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    format_: Annotated[Format, typer.Option("--format", help="How it is written.")] = Format.TABLE,
    config: ConfigOption = None,
) -> None:
    """Sums of a month's usage."""
    from sqlalchemy.exc import SQLAlchemyError

    from cluster.loading import load
    from cluster.tenants.locate import database_url
    from cluster.tenants.store import BadUrl, open_store
    from cluster.usage.report import BY, month_span, totals

    words = [word.strip() for word in by.split(",")]
    chosen = [each for word in words for each in BY if each == word]
    if len(chosen) != len(words) or len(set(chosen)) != len(chosen):
        raise Fault(f"--by takes any of {', '.join(BY)}, each once, with commas between them")
    month = month or datetime.now(UTC).strftime("%Y-%m")
    try:
        since_s, until_s = month_span(month)
    except ValueError as error:
        raise Fault("--month is written as 2026-11") from error
    loaded = load(chosen_file(config), os.environ)
    try:
        store = open_store(database_url(loaded.access))
    except BadUrl as error:
        raise Fault(str(error)) from error
    try:
        store.migrate()
        rows = totals(store.engine, since_s, until_s, chosen, tenant)
    except SQLAlchemyError as error:
        raise Fault(f"the store does not answer ({type(error).__name__})") from error
    finally:
        store.close()
    table: list[tuple[str | float, ...]] = [
        (
            *row.key, row.requests, row.prompt_tokens, row.cached_tokens, row.analysis_tokens,
            row.final_tokens, round(row.gpu_s, 3), round(row.cost, 6),
        )
        for row in rows
    ]  # fmt: skip
    _write(format_, [*chosen, *SUMS], table, f"{month}, cost in {loaded.usage.currency}")


def _write(
    format_: Format, columns: list[str], table: list[tuple[str | float, ...]], title: str
) -> None:
    if format_ is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_harmless(each) for each in row] for row in table)
    elif format_ is Format.JSON:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in table], indent=1))
    else:
        from rich.console import Console
        from rich.table import Table

        drawn = Table(title=title, title_justify="left")
        groups = len(columns) - len(SUMS)
        for index, column in enumerate(columns):
            drawn.add_column(column, justify="left" if index < groups else "right")
        for row in table:
            drawn.add_row(*(f"{e:,}" if not isinstance(e, str) else e for e in row))
        Console().print(drawn)


def _harmless(value: str | float) -> str | float:
    """A spreadsheet would run what begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
