"""API keys: each of a tenant, shown once."""

import dataclasses
from typing import Annotated, Any

import typer

from cluster.cli.console import tell
from cluster.cli.registry import (
    ConfigOption,
    JsonOption,
    LimitOption,
    actor,
    book,
    day,
    duration_s,
    limits,
    order,
    print_json,
    print_table,
)

KeyId = Annotated[
    str, typer.Argument(help="The key's id: what stands between `sk-trireme-` and the next dash.")
]
Expires = Annotated[
    str | None, typer.Option("--expires", metavar="TIME", help="Such as 90d or 12h, or `never`.")
]


def create(
    tenant: Annotated[str, typer.Argument(help="The tenant's name.")],
    label: Annotated[str, typer.Option(help="What it is for, in your own words.")] = "",
    team: Annotated[str, typer.Option(help="Team of the tenant.")] = "",
    project: Annotated[str, typer.Option(help="Project of the team.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="`generate` or `usage`; both without; may be repeated."),
    ] = None,
    tier: Annotated[
        list[str] | None, typer.Option(help="A tier, of the tenant's; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model, of the tenant's; may be repeated.")
    ] = None,
    default_tier: Annotated[
        str | None, typer.Option("--default-tier", help="Tier where none is asked.")
    ] = None,
    expires: Expires = None,
    limit: LimitOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once."""
    from cluster.tenants.orders import NewKeyOrder

    told: dict[str, Any] = {
        "tenant": tenant,
        "label": label,
        "team": team,
        "project": project,
        "tiers": tier or None,
        "models": model or None,
        "default_tier": default_tier,
        "expires_in_s": duration_s(expires, "--expires"),
        "limits": limits(limit),
    }
    if scope:
        told["scopes"] = scope
    new = order(NewKeyOrder, told)
    with book(config, makes_keys=True) as found:
        made = found.create_key(new, actor())
    _show_once(made, as_json)


def rotate(
    key: KeyId,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="For so long the old key stays good.")
    ] = "24h",
    expires: Expires = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key in place of another, which stays good for a while; print it, this once."""
    from cluster.tenants.orders import Rotation

    told = {
        "overlap_s": duration_s(overlap, "--overlap") or 0.0,
        "expires_in_s": duration_s(expires, "--expires"),
    }
    rotation = order(Rotation, told)
    with book(config, makes_keys=True) as found:
        made = found.rotate_key(key, rotation, actor())
    _show_once(made, as_json)
    tell(f"the old key {key} is good for another {overlap}")


def revoke(key: KeyId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """End a key; every gateway refuses it within 2 s."""
    with book(config) as found:
        view = found.revoke_key(key, actor())
    if as_json:
        print_json(dataclasses.asdict(view))
    else:
        print(f"key {key} of {view.tenant} is revoked")


def list_(
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print all keys, without their secrets, which nobody has."""
    with book(config) as found:
        rows = found.keys(tenant)
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
        return
    head = ("key", "tenant", "team", "project", "state", "scopes", "tiers", "expires", "label")
    print_table(
        head,
        [
            (
                row.id,
                row.tenant,
                row.team,
                row.project,
                row.state,
                row.scopes,
                "all" if row.tiers is None else row.tiers,
                day(row.expires_at),
                row.label,
            )
            for row in rows
        ],
    )


def audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many changes.")] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the last changes to tenants and keys: who, what, when."""
    with book(config) as found:
        rows = found.audit(limit)
    if as_json:
        print_json(rows)
        return
    print_table(
        ("when (UTC)", "who", "from", "what", "of"),
        [
            (day(row["at"]), row["who"], row["request_from"], row["action"], row["subject"])
            for row in rows
        ],
    )


def _show_once(made: Any, as_json: bool) -> None:
    if as_json:
        print_json({**dataclasses.asdict(made.view), "key": made.key.text})
        return
    print(made.key.text)
    tell("this is the only time that the key is shown; it is good within 2 s")
