"""Plan the machines in a cloud."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from cluster.cli.console import Fault

FACTS = Path(__file__).resolve().parents[2] / "terraform" / "facts"

Tree = Mapping[str, Any]

MAX_REPLICAS = 4096
NEVER_ON_SPOT = "spot nodes may vanish: write --spot-replicas, a pool that only lends"


class Capacity(StrEnum):
    on_demand = "on-demand"
    reservation = "reservation"
    capacity_block = "capacity-block"
    spot = "spot"


@dataclass(frozen=True, slots=True)
class Ask:
    """Replicas wanted of one pool: what for, on what, and bought how."""

    pool: str
    gpu: str
    model: str
    replicas: int
    max_replicas: int
    tensor_parallel_size: int | None
    instance_type: str | None
    capacity: str


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Nodes for one pool. `usd_per_hour` is the list price of the first nodes; None: not known."""

    ask: Ask
    tensor_parallel_size: int
    instance_type: str
    nodes: int
    max_nodes: int
    quota: Tree | None
    quota_vcpus: int
    usd_per_hour: float | None


def plan(
    gpu: Annotated[str, typer.Option(help="Kind of GPU: h100, h200, b200 or l40s.")],
    replicas: Annotated[int, typer.Option(help="Replicas to start with.")],
    tp: Annotated[
        int | None, typer.Option(help="GPUs of one replica; the fewest that hold the model.")
    ] = None,
    model: Annotated[str, typer.Option(help="The model to serve.")] = "gpt-oss-120b",
    max_replicas: Annotated[
        int | None, typer.Option(help="Replicas that autoscaling may reach; no more if not said.")
    ] = None,
    spot_replicas: Annotated[
        int, typer.Option(help="Replicas besides on spot nodes, which only lend at peaks.")
    ] = 0,
    capacity: Annotated[
        Capacity, typer.Option(help="How the nodes are bought.")
    ] = Capacity.on_demand,
    reservation: Annotated[
        str | None, typer.Option(help="ID of the reservation or block (cr-…).")
    ] = None,
    instance_type: Annotated[
        str | None, typer.Option(help="Instance type; the cheapest that fits if not said.")
    ] = None,
    region: Annotated[str, typer.Option(help="AWS region.")] = "us-east-1",
    zones: Annotated[str, typer.Option(help="Letters of two or three zones.")] = "ab",
    zone: Annotated[str | None, typer.Option(help="Letter of the reservation's zone.")] = None,
) -> None:
    """Print the variables of terraform/examples/production for so many replicas."""
    facts, prices = _read("instances"), _read("prices")
    _check_place(capacity, reservation, region, zones, zone)
    ask = Ask("main", gpu, model, replicas, max_replicas or replicas, tp, instance_type, capacity)
    plans = [_planned(ask, facts, prices)]
    if spot_replicas:
        own_tp = plans[0].tensor_parallel_size
        peak = Ask("peak", gpu, model, spot_replicas, spot_replicas, own_tp, None, "spot")
        plans.append(_planned(peak, facts, prices))
    print(_comments(plans, region, prices))
    print(_variables(plans, region, zones, reservation, zone))


def manifest(
    folder: Annotated[Path, typer.Argument(help="Folder with a model's weights.")],
) -> None:
    """Print the manifest of a folder of weights: every file and its bytes, as JSON."""
    if not folder.is_dir():
        raise Fault(f"{folder} is no folder: name the one that holds the weights")
    files = {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }
    if not any(name.endswith(".safetensors") for name in files):
        raise Fault(f"{folder} holds no .safetensors: name the folder that holds the weights")
    print(json.dumps({"files": files}, indent=2))


def _read(name: str) -> Tree:
    file = FACTS / f"{name}.yaml"
    if not file.is_file():
        raise Fault(f"{file} is missing: run trireme from a clone of its repository", 1)
    tree: Tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    return tree


def _check_place(
    capacity: Capacity, reservation: str | None, region: str, zones: str, zone: str | None
) -> None:
    if capacity is Capacity.spot:
        raise Fault(NEVER_ON_SPOT)
    if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-[0-9]", region):
        raise Fault(f"{region} is no region: write one such as us-east-1")
    if len(set(zones)) != len(zones) or len(zones) not in (2, 3) or not zones.isalpha():
        raise Fault(f"--zones {zones} are no two or three zones: write letters such as ab or abc")
    if capacity is Capacity.on_demand:
        if reservation is not None:
            raise Fault("--reservation goes with --capacity reservation or capacity-block alone")
    elif reservation is None or not re.fullmatch(r"cr-[0-9a-f]{8,17}", reservation):
        raise Fault(f"--capacity {capacity} wants --reservation with its ID, such as cr-0123abcd")
    elif zone is None:
        raise Fault("a reservation lives in one zone: write its letter as --zone")
    if zone is not None and (len(zone) != 1 or zone not in zones):
        raise Fault(f"--zone {zone} is none of --zones {zones}: write one of those letters")


def _planned(ask: Ask, facts: Tree, prices: Tree) -> PoolPlan:
    _check_ask(ask, facts)
    sizes: list[int] = sorted(facts["gpus"][ask.gpu]["tensor_parallel"][ask.model])
    tp = ask.tensor_parallel_size or sizes[0]
    if tp not in sizes:
        fitting = ", ".join(map(str, sizes))
        raise Fault(f"{ask.model} does not go over {tp} {ask.gpu}: write --tp {fitting}")
    types = _types(ask, tp, facts)

    def nodes(name: str, replicas: int) -> int:
        per_node: int = facts["instance_types"][name]["gpus"] // tp
        return math.ceil(replicas / per_node)

    def cost(name: str) -> tuple[float, int]:
        price = prices["on_demand_usd_per_hour"].get(name, math.inf)
        count = nodes(name, ask.replicas)
        # Prices are sums of cents; equal ones must not differ by rounding.
        return round(count * price, 2) if math.isfinite(price) else math.inf, count

    chosen = min(types, key=cost)
    about = facts["instance_types"][chosen]
    most = nodes(chosen, ask.max_replicas)
    price = prices["on_demand_usd_per_hour"].get(chosen)
    listed = price is not None and ask.capacity in ("on-demand", "reservation")
    count = nodes(chosen, ask.replicas)
    return PoolPlan(
        ask=ask,
        tensor_parallel_size=tp,
        instance_type=chosen,
        nodes=count,
        max_nodes=most,
        quota=facts["quotas"][about["quota"]].get(ask.capacity),
        quota_vcpus=most * about["vcpus"],
        usd_per_hour=count * price if listed else None,
    )


def _check_ask(ask: Ask, facts: Tree) -> None:
    if ask.gpu not in facts["gpus"]:
        raise Fault(f"nothing is known of {ask.gpu}: write one of {', '.join(facts['gpus'])}")
    if ask.model not in facts["models"]:
        raise Fault(f"nothing is known of {ask.model}: write one of {', '.join(facts['models'])}")
    if not 1 <= ask.replicas <= MAX_REPLICAS:
        raise Fault(f"{ask.replicas} replicas cannot be: write 1 to {MAX_REPLICAS}")
    if not ask.replicas <= ask.max_replicas <= MAX_REPLICAS:
        raise Fault(
            f"--max-replicas {ask.max_replicas} cannot be: write {ask.replicas} to {MAX_REPLICAS}"
        )


def _types(ask: Ask, tp: int, facts: Tree) -> list[str]:
    """Instance types that hold a replica and are sold as asked; at least one."""
    known: list[str] = facts["gpus"][ask.gpu]["instance_types"]
    if ask.instance_type is not None:
        if ask.instance_type not in known:
            names = ", ".join(known)
            raise Fault(f"{ask.instance_type} has no {ask.gpu} that is known: write one of {names}")
        known = [ask.instance_type]
    large = [name for name in known if facts["instance_types"][name]["gpus"] >= tp]
    if not large:
        most = max(facts["instance_types"][name]["gpus"] for name in known)
        raise Fault(f"--tp {tp} is more than the {most} GPUs of a {known[0]}: write {most} or less")
    sold = [name for name in large if ask.capacity in facts["instance_types"][name]["capacity"]]
    if not sold:
        ways = sorted({way for n in large for way in facts["instance_types"][n]["capacity"]})
        raise Fault(
            f"{', '.join(large)} cannot be had as {ask.capacity} (or its quota is not known): "
            f"the ways are {', '.join(ways)}"
        )
    return sold


def _comments(plans: list[PoolPlan], region: str, prices: Tree) -> str:
    lines = []
    for each in plans:
        most = f", up to {each.max_nodes}" if each.max_nodes > each.nodes else ""
        lines.append(
            f"# {each.ask.pool}: {each.ask.replicas} × {each.ask.model} over "
            f"{each.tensor_parallel_size} {each.ask.gpu} on {each.nodes} × "
            f"{each.instance_type}{most}"
        )
        if each.quota is not None:
            lines.append(
                f"#   quota to have in {region}: {each.quota['name']} ({each.quota['code']}), "
                f"{each.quota_vcpus} vCPUs for these nodes"
            )
        if each.usd_per_hour is not None:
            lines.append(
                f"#   GPU nodes: {each.usd_per_hour:,.2f} USD an hour at the list price of "
                f"{prices['region']}, read on {prices['read_on']}"
            )
    lines.append("# To be added: api_client_cidrs, alert_emails, monthly_budget_usd.")
    return "\n".join(lines)


def _variables(
    plans: list[PoolPlan], region: str, zones: str, reservation: str | None, zone: str | None
) -> str:
    names = json.dumps([f"{region}{letter}" for letter in zones])
    lines = [f'region             = "{region}"', f"availability_zones = {names}"]
    if plans[0].ask.model != "gpt-oss-120b":
        lines.append(f'model              = "{plans[0].ask.model}"')
    lines.append("pools = {")
    for each in plans:
        fields = [
            f'gpu = "{each.ask.gpu}"',
            f'instance_type = "{each.instance_type}"',
            f"tensor_parallel_size = {each.tensor_parallel_size}",
            f"replicas = {each.ask.replicas}",
        ]
        if each.ask.max_replicas > each.ask.replicas:
            fields.append(f"max_replicas = {each.ask.max_replicas}")
        if each.ask.capacity != "on-demand":
            fields.append(f'capacity = "{each.ask.capacity}"')
        if each.ask.capacity == "spot":
            fields.append("tiers = []")
        elif reservation is not None:
            fields.append(f'reservation_id = "{reservation}"')
        if zone is not None and each.ask.capacity != "spot":
            fields.append(f'zone = "{region}{zone}"')
        lines.append(f"  {each.ask.pool} = {{ {', '.join(fields)} }}")
    lines.append("}")
    return "\n".join(lines)
