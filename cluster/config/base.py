"""What all settings have in common: types of values, and how faults are raised.

Objects are frozen and refuse unknown fields. A rule that involves several fields raises `faults`,
an error that carries `Fault` objects; `cluster.loading` turns those and pydantic's own errors into
one line each for the operator.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from cluster.errors import Fault

Tier = Literal["low", "medium", "high"]
TIERS: tuple[Tier, ...] = ("low", "medium", "high")

KIB = 1024
MIB = 1024 * KIB

LABEL_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"

# Pool names become Serve deployment names, metric labels and Kubernetes labels (63 characters with
# a suffix).
Label = Annotated[str, Field(pattern=LABEL_PATTERN, max_length=40)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65535)]

STORE_URL = re.compile(r"^(postgres(ql)?(\+psycopg)?://|sqlite:///.)")


def refuse(faults: Iterable[Fault]) -> None:
    """Raise one pydantic error that carries all `faults`, if there are any.

    Paths are relative to the model at hand.
    """
    found = list(faults)
    if found:
        summary = "; ".join(str(fault) for fault in found)
        raise PydanticCustomError("faults", "{summary}", {"summary": summary, "faults": found})


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Settings(BaseModel):
    """A part of the configuration: frozen, and no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)
