"""Settings of vLLM as flags of its command line. Does not import vLLM."""

import json
from typing import Any


def flags(name: str, value: Any) -> list[str]:
    """The setting ``name``, as its owner's Python would write it, for vLLM's command line."""
    flag = "--" + name.replace("_", "-")
    match value:
        case None:
            return []
        case True:
            return [flag]
        case False:
            return ["--no-" + flag[2:]]
        case dict():
            return [flag, json.dumps(value)]
        case list() | tuple():
            return [flag, *map(str, value)]
        case _:
            return [flag, str(value)]
