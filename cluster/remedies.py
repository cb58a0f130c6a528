"""From a pydantic error about settings to a `Fault`: where, what, what to write instead.

`root` is the settings class that a file as a whole is read as, `TriremeConfig` unless said.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from cluster.config import LABEL_PATTERN, MODEL_NAME_PATTERN, TriremeConfig
from cluster.errors import Fault, clipped

Path = tuple[str | int, ...]

_TYPES = {
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "int_parsing_size": "write a smaller number",
    "float_type": "write a number",
    "float_parsing": "write a number",
    "finite_number": "write a finite number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "string_type": "write text, in quotes if it looks like a number",
    "list_type": "write a list, such as [a, b]",
    "dict_type": "write `key: value` lines below it",
    "model_type": "write `key: value` lines below it",
    "model_attributes_type": "write `key: value` lines below it",
    "too_short": "name at least one",
    "string_too_short": "write at least one character, or remove the line",
}

_PATTERNS = {
    r"^/": "write an absolute path, such as /tmp/ray",
    LABEL_PATTERN: "use small letters, digits and hyphens, such as main-1",
    MODEL_NAME_PATTERN: "use letters and digits, with . _ : / or - between them",
}


def spelled(path: Path) -> str:
    """The path as people write it: `models[0].pools[1].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.65)), None)


def model_at(path: Path, root: type[BaseModel] = TriremeConfig) -> type[BaseModel] | None:
    """The settings class at `path`; None where a plain value, a list or a mapping stands."""
    found = _annotation_at(path, root)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def field_at(path: Path, root: type[BaseModel] = TriremeConfig) -> FieldInfo | None:
    """The field that `path` names, or in whose list or mapping it points; None if there is none."""
    for end in range(len(path), 0, -1):
        part = path[end - 1]
        owner = model_at(path[: end - 1], root)
        if owner is not None:
            if isinstance(part, str) and part in owner.model_fields:
                known = _annotation_at(path, root) is not None
                return owner.model_fields[part] if known else None
            return None
    return None


def fault_of(
    item: ErrorDetails, root: type[BaseModel] = TriremeConfig
) -> Iterator[tuple[Path, Fault]]:
    """The faults in one pydantic error, each with its path in parts."""
    path = tuple(part for part in item["loc"] if part != "[key]")
    if item["type"] == "faults":
        for fault in item["ctx"]["faults"]:
            where = (*path, *_parts(fault.path))
            yield where, Fault(spelled(where), fault.problem, fault.remedy)
        return
    yield path, Fault(spelled(path) or "the file", _problem(item), _remedy(path, item, root))


def _parts(text: str) -> Path:
    found = re.findall(r"\[(\d+)\]|([^.\[\]]+)", text)
    return tuple(int(index) if index else name for index, name in found)


def _annotation_at(path: Path, root: type[BaseModel]) -> Any:
    here: Any = root
    for part in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(part) if isinstance(part, str) else None
            if field is None:
                return None
            here = field.annotation
        elif get_origin(here) is list and isinstance(part, int):
            here = get_args(here)[0]
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        else:
            return here if here is Any else None
    return here


def _problem(item: ErrorDetails) -> str:
    if item["type"] == "extra_forbidden":
        return "no such setting"
    if item["type"] == "missing":
        return "is not set"
    given = item["input"]
    if item["type"] == "too_short":
        return "the list is empty"
    if given is None:
        return "the value is empty"
    if isinstance(given, dict | list):
        return f"a {'mapping' if isinstance(given, dict) else 'list'} does not fit here"
    return f"{clipped(repr(given))} does not fit here"


def _remedy(path: Path, item: ErrorDetails, root: type[BaseModel]) -> str:
    kind = item["type"]
    if kind == "extra_forbidden":
        return _meant(path, root)
    if kind == "missing":
        return "add it; it has no default"
    if kind == "literal_error":
        return _one_of(item)
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(item["ctx"]["pattern"], item["msg"])
    if kind == "string_too_long":
        return f"write at most {item['ctx']['max_length']} characters"
    limits = _range(field_at(path, root))
    words = _TYPES.get(kind, item["msg"].lower())
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"write a number {limits}"
    return f"{words} {limits}" if limits and words.endswith("number") else words


def _one_of(item: ErrorDetails) -> str:
    expected = str(item["ctx"]["expected"])
    words = [word.strip(" '") for word in expected.replace(" or ", ", ").split(",")]
    guess = nearest(str(item["input"]).lower(), words)
    meant = f"did you mean {guess}? " if guess and not guess.isdigit() else ""
    return f"{meant}write one of {', '.join(words)}"


def _meant(path: Path, root: type[BaseModel]) -> str:
    owner = model_at(path[:-1], root) or root
    word = str(path[-1])
    guess = nearest(word.lower().replace("-", "_"), owner.model_fields)
    if guess:
        return f"did you mean {guess}?"
    elsewhere = _homes(word, root)
    if elsewhere:
        return f"write it under {' or '.join(elsewhere)}"
    return f"known here: {', '.join(owner.model_fields)}"


def _homes(word: str, model: type[BaseModel], at: str = "") -> list[str]:
    homes = [at] if at and word in model.model_fields else []
    for name, field in model.model_fields.items():
        inner, mark = field.annotation, ""
        if get_origin(inner) is list:
            inner, mark = get_args(inner)[0], "[0]"
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            homes += _homes(word, inner, f"{at}.{name}{mark}" if at else f"{name}{mark}")
    return homes


def _range(field: FieldInfo | None) -> str:
    """The limits of a number in words, such as "from 1 to 4096"; empty without limits."""
    if field is None:
        return ""
    limits = list(field.metadata)
    if get_origin(field.annotation) in (list, dict, Union):
        limits = []
    words = []
    for limit in limits:
        match limit:
            case Ge(ge=value):
                words.append(f"from {value}")
            case Gt(gt=value):
                words.append(f"above {value}")
            case Le(le=value):
                words.append(f"to {value}" if words else f"up to {value}")
            case Lt(lt=value):
                words.append(f"below {value}")
    return " ".join(words)
