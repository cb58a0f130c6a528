"""Tenants: who calls the endpoint, with what weight, tiers, models and limits."""

import dataclasses
from typing import Annotated, Any

import typer

from cluster.cli.registry import (
    ConfigOption,
    JsonOption,
    LimitOption,
    actor,
    book,
    limits,
    order,
    print_json,
    print_table,
)

Name = Annotated[str, typer.Argument(help="The tenant's name.")]
Weight = Annotated[float | None, typer.Option(help="Share of a queue, against the others'.")]
Priority = Annotated[
    bool | None,
    typer.Option("--priority/--no-priority", help="Whether its requests go ahead of all others'."),
]
Tiers = Annotated[
    list[str] | None, typer.Option("--tier", help="A tier that it may use; may be repeated.")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A model that it may use; `all` for all; may be repeated."),
]
Default = Annotated[
    str | None, typer.Option("--default-tier", help="Tier where none is asked; `none` for none.")
]
Group = Annotated[
    str | None,
    typer.Option("--cache-group", help="Tenants of one group share prefix-cache entries."),
]


def create(
    name: Name,
    weight: Weight = None,
    priority: Priority = None,
    tier: Tiers = None,
    model: Models = None,
    default_tier: Default = None,
    cache_group: Group = None,
    limit: LimitOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a tenant."""
    from cluster.tenants.orders import NewTenant

    told = _told(weight, priority, tier, model, default_tier, cache_group, limit)
    new = order(NewTenant, {"name": name, **told})
    with book(config) as found:
        made = found.create_tenant(new, actor())
    if as_json:
        print_json(dataclasses.asdict(made))
    else:
        print(f"tenant {made.name} is there; make a key: trireme keys create {made.name}")


def set_(
    name: Name,
    weight: Weight = None,
    priority: Priority = None,
    tier: Tiers = None,
    model: Models = None,
    default_tier: Default = None,
    cache_group: Group = None,
    limit: LimitOption = None,
    enabled: Annotated[
        bool | None,
        typer.Option("--enable/--disable", help="Whether its keys let anybody in."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what is given of a tenant; the rest stays."""
    from cluster.tenants.orders import TenantChange

    told = _told(weight, priority, tier, model, default_tier, cache_group, limit)
    if enabled is not None:
        told["enabled"] = enabled
    change = order(TenantChange, told)
    with book(config) as found:
        made = found.set_tenant(name, change, actor())
    if as_json:
        print_json(dataclasses.asdict(made))
    else:
        print(f"tenant {made.name} is changed; gateways know it within 2 s")


def list_(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print all tenants."""
    with book(config) as found:
        rows = found.tenants()
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
        return
    head = (
        "tenant",
        "weight",
        "priority",
        "tiers",
        "models",
        "default",
        "cache group",
        "state",
        "keys",
    )
    print_table(
        head,
        [
            (
                row.name,
                row.weight,
                "yes" if row.priority else "no",
                row.tiers,
                "all" if row.models is None else row.models,
                row.default_tier,
                row.cache_group,
                "enabled" if row.enabled else "disabled",
                str(row.good_keys),
            )
            for row in rows
        ],
    )


def delete(
    name: Name,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Although it has keys that are good.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Delete a tenant with its teams, projects and keys."""
    with book(config) as found:
        found.delete_tenant(name, actor(), with_keys=with_keys)
    print(f"tenant {name} is gone")


def _told(
    weight: float | None,
    priority: bool | None,
    tier: list[str] | None,
    model: list[str] | None,
    default_tier: str | None,
    cache_group: str | None,
    limit: list[str] | None,
) -> dict[str, Any]:
    """What was given, as an order says it."""
    told: dict[str, Any] = {}
    if weight is not None:
        told["weight"] = weight
    if priority is not None:
        told["priority"] = priority
    if tier:
        told["tiers"] = tier
    if model:
        told["models"] = None if model == ["all"] else model
    if default_tier is not None:
        told["default_tier"] = None if default_tier == "none" else default_tier
    if cache_group is not None:
        told["cache_group"] = cache_group
    if limit:
        told["limits"] = limits(limit)
    return told
