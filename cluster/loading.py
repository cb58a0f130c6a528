"""From `trireme.yaml` and the environment to a `TriremeConfig`, with every fault named at once.

The order of what counts: the environment over the file over the fallback over the built-in
defaults.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cluster.config import TriremeConfig
from cluster.errors import ConfigError, Fault, clipped
from cluster.remedies import Path as Location
from cluster.remedies import fault_of, field_at, model_at, nearest, spelled

Settings = TypeVar("Settings", bound=BaseModel)

PREFIX = "TRIREME_"

RESERVED = frozenset(
    {
        *("TRIREME_HOME", "TRIREME_CLUSTER", "TRIREME_CONFIG"),
        *("TRIREME_OPS_ADDRESS", "TRIREME_CHANNEL_SECRET", "TRIREME_API_KEY"),
        *("TRIREME_DATABASE_URL", "TRIREME_ACCESS_SECRET", "TRIREME_ADMIN_TOKENS"),
        "TRIREME_FRONT",
    }
)
"""Variables with the prefix that are no settings: where state lives, which cluster, which file; and
secrets and what else the Helm chart tells its pods."""

# Kubernetes puts TRIREME_PORT=tcp://…, TRIREME_SERVICE_HOST and the like into every pod beside a
# Service named trireme.
_SERVICE_LINK = re.compile(
    r"_SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?$"
)
_SERVICE_ADDRESS = re.compile(r"^(tcp|udp|sctp)://")

_SECRET = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$", re.IGNORECASE)
_PASSWORD = re.compile(r"^([^/]+://[^/@]*?:).*(@)")
_REDACTED = "(redacted)"

# Each round takes out what was reported and looks again: values, then the rules of a pool, of a
# model, of the whole. The bound guards against a fault that cannot be taken out.
_ROUNDS = 8


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    fallback: Callable[[], TriremeConfig] | None = None,
) -> TriremeConfig:
    """Read, override, and check.

    `path` is the YAML file; None reads none. `environ` may hold `TRIREME_GATEWAY__PORT=9000` or
    `TRIREME_MODELS__0__POOLS__0__REPLICAS=3`: field names in capitals, two underscores between
    levels, list items by index, values as YAML. `fallback` is asked when the file names no models,
    and gives them and whatever else it sets and the file does not.

    Raises `ConfigError` with every fault found.
    """
    tree = _read(path) if path is not None else {}
    if fallback is not None and "models" not in tree:
        tree = _merged(fallback().model_dump(mode="json", exclude_unset=True), tree)
    faults, origins = _override(tree, environ)
    return _validated(TriremeConfig, tree, origins, faults)


def load_as(settings: type[Settings], path: Path) -> Settings:
    """Read another kind of file than `trireme.yaml`, with faults of the same form.

    Raises `ConfigError` with every fault found.
    """
    return _validated(settings, _read(path), {}, [])


def dump(config: TriremeConfig) -> str:
    """The configuration in force as YAML that `load` reads back; secrets in `env` and a password in
    `access.store_url` are redacted."""
    tree = config.model_dump(mode="json")
    for model in tree["models"]:
        for pool in model["pools"]:
            pool["env"] = {k: _REDACTED if _SECRET.search(k) else v for k, v in pool["env"].items()}
    url = config.access.store_url
    tree["access"]["store_url"] = url and _PASSWORD.sub(rf"\1{_REDACTED}\2", url)
    # ASCII only: written as they are, some characters (U+0085) would read back as line breaks.
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=False)
    return text


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice, which the library would let win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    problem = f"'{clipped(key.value)}' is written twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        problem = f"cannot be read: {(error.strerror or 'unknown reason').lower()}"
        raise ConfigError([Fault(str(path), problem, "name a file that exists")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Fault(str(path), "is not UTF-8 text", "save it as UTF-8")]) from error
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_fault(path, error)]) from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            [
                Fault(
                    str(path),
                    "holds no settings",
                    "write `key: value` lines, such as `name: trireme`",
                )
            ]
        )
    return tree


def _syntax_fault(path: Path, error: yaml.YAMLError) -> Fault:
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = getattr(error, "problem", None) or "is not YAML"
    remedy = (
        "keep one of the two" if problem.endswith("written twice") else "correct the YAML there"
    )
    return Fault(f"{path}{where}", problem, remedy)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merged(below, value)
        both[key] = value
    return both


def _override(
    tree: dict[str, Any], environ: Mapping[str, str]
) -> tuple[list[Fault], dict[Location, str]]:
    faults: list[Fault] = []
    origins: dict[Location, str] = {}
    for variable in sorted(environ):
        if not _is_setting(variable, environ[variable]):
            continue
        location = _location(variable)
        fault = _unknown(variable, location)
        if fault is None:
            try:
                value = yaml.load(environ[variable], _Loader)
                fault = _put(tree, location, value, variable)
            except yaml.YAMLError:
                fault = Fault(
                    variable, "the value is not YAML", "quote it as you would in the file"
                )
        if fault is not None:
            faults.append(fault)
        else:
            origins[location] = variable
    return faults, origins


def _is_setting(variable: str, value: str) -> bool:
    if not variable.startswith(PREFIX) or variable in RESERVED:
        return False
    if _SERVICE_ADDRESS.match(value):
        return False
    return "__" in variable or not _SERVICE_LINK.search(variable)


def _location(variable: str) -> Location:
    parts: list[str | int] = []
    words = variable.removeprefix(PREFIX).split("__")
    for index, word in enumerate(words):
        if parts and parts[-1] == "env":
            # Below `env` stands the name of another variable, to be kept as it is.
            parts.append("__".join(words[index:]))
            break
        parts.append(int(word) if word.isdecimal() else word.lower())
    return tuple(parts)


def _unknown(variable: str, location: Location) -> Fault | None:
    for depth, part in enumerate(location):
        model = model_at(location[:depth])
        if model is None:
            continue
        if part not in model.model_fields:
            known = [name.upper() for name in model.model_fields]
            head = PREFIX + "".join(f"{str(p).upper()}__" for p in location[:depth])
            close = nearest(str(part).upper(), known)
            tail = "".join(f"__{p}" for p in variable.removeprefix(head).split("__")[1:])
            remedy = f"write {head}{close}{tail}" if close else f"known here: {', '.join(known)}"
            return Fault(variable, "no such setting", remedy)
    if field_at(location) is None and model_at(location) is None:
        return Fault(variable, "no such setting", "remove it, or name a field as in the file")
    return None


def _put(tree: dict[str, Any], location: Location, value: Any, variable: str) -> Fault | None:
    here: Any = tree
    for depth, part in enumerate(location):
        last = depth == len(location) - 1
        empty: Any = [] if not last and isinstance(location[depth + 1], int) else {}
        if isinstance(part, int):
            if not isinstance(here, list) or part > len(here):
                count = len(here) if isinstance(here, list) else 0
                remedy = f"use an index from 0 to {count}"
                return Fault(variable, f"{spelled(location[:depth])} has {count} items", remedy)
            if part == len(here):
                here.append(empty)
        elif not isinstance(here, dict):
            return Fault(
                variable, f"{spelled(location[:depth])} is no mapping", "correct the file first"
            )
        elif here.get(part) is None:
            here[part] = empty
        if last:
            here[part] = value
        else:
            here = here[part]
    return None


def _validated(
    settings: type[Settings],
    tree: dict[str, Any],
    origins: dict[Location, str],
    faults: list[Fault],
) -> Settings:
    taken_out: set[Location] = set()
    for _ in range(_ROUNDS):
        try:
            config = settings.model_validate(tree)
        except ValidationError as error:
            reported = {fault.path for fault in faults}
            locations = []
            for item in error.errors(include_url=False):
                for location, fault in fault_of(item, settings):
                    locations.append(location)
                    # What stands at, above or below a reported place may only follow from it.
                    if not any(_related(fault.path, path) for path in reported):
                        faults.append(_with_origin(fault, origins.get(location)))
            # Rules between settings are checked only once the settings themselves are sound, so
            # what was reported goes back to its default and the rest is looked at again.
            for location in locations:
                # A default can itself break a rule with what stands beside it: then that goes too.
                while location and location in taken_out:
                    location = location[:-1]
                taken_out.add(location)
                _reset(tree, location)
        else:
            if faults:
                break
            return config
    raise ConfigError(faults)


def _related(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return longer == shorter or longer.startswith((f"{shorter}.", f"{shorter}["))


def _with_origin(fault: Fault, variable: str | None) -> Fault:
    if variable is None:
        return fault
    return Fault(fault.path, f"{fault.problem} (from {variable})", fault.remedy)


def _reset(tree: dict[str, Any], location: Location) -> None:
    # An item of a list takes its whole list along, or the indexes of the others would move.
    while location and isinstance(location[-1], int):
        location = location[:-1]
    here: Any = tree
    for part in location[:-1]:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            return
    if not isinstance(here, dict) or not location:
        return
    if location[-1] in ("name", "pools"):
        # Names must differ, and a default one could meet another.
        name = f"unnamed-{id(here)}"
        here[location[-1]] = name if location[-1] == "name" else [{"name": name}]
    else:
        here.pop(location[-1], None)
