"""What a user may order word for word, so that a test knows what the tiny model will say.

- ``SAY text``: the answer is the text; under a JSON schema that it obeys, that JSON.
- ``CALL name json``: if such a tool is offered it is called, with these arguments if they obey its
  schema.

Members of JSON must come in the schema's order, as grammars want them.
"""

import json
import re
from typing import Any

_SAY = re.compile(r"\s*SAY\s+(\S.*)", re.DOTALL)
_CALL = re.compile(r"\s*CALL\s+(\S+)\s+(\{.*)", re.DOTALL)


def text_to_say(user_text: str) -> str | None:
    """None: nothing is ordered."""
    found = _SAY.fullmatch(user_text)
    return None if found is None else found.group(1).rstrip()


def json_to_say(user_text: str, schema: object, tool: str | None = None) -> Any:
    """An object that obeys ``schema``: the arguments of ``tool``, or the answer. None: no such
    thing is ordered."""
    if tool is None:
        written = text_to_say(user_text)
    else:
        found = _CALL.fullmatch(user_text)
        written = found.group(2) if found is not None and found.group(1) == tool else None
    if written is None:
        return None
    try:
        value = json.loads(written)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _obeys(value, schema) else None


def _obeys(value: Any, schema: object) -> bool:
    import jsonschema

    try:
        jsonschema.validate(value, schema)
    except Exception:  # also a schema that cannot be read: its class hangs on the version
        return False
    return True
