"""JSON schemas at random, such as clients send: for hypothesis."""

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

_names = st.from_regex(r"[a-z][a-z_]{0,9}", fullmatch=True)
_texts = st.text("abcdefghij klmnop", min_size=1, max_size=12)


def _bounded(low_key: str, high_key: str, highest: int) -> st.SearchStrategy[Schema]:
    """A lower bound, an upper bound, both in order, or none."""
    pair = st.tuples(st.integers(0, highest), st.integers(0, highest)).map(sorted)
    return st.tuples(pair, st.sampled_from(("none", "low", "high", "both"))).map(
        lambda drawn: {
            key: value
            for key, value, wanted in (
                (low_key, drawn[0][0], drawn[1] in ("low", "both")),
                (high_key, drawn[0][1], drawn[1] in ("high", "both")),
            )
            if wanted
        }
    )


def _typed(name: str, bounds: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return bounds.map(lambda drawn: {"type": name, **drawn})


strings = _typed("string", _bounded("minLength", "maxLength", 30))
integers = _typed("integer", _bounded("minimum", "maximum", 500))
numbers = _typed("number", _bounded("minimum", "maximum", 500))
plain = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"type": ["string", "null"]},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "email"},
        {"type": "string", "pattern": "^[A-Z]{2}-\\d{3,5}$"},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    ]
)
enums = st.one_of(
    st.lists(_texts, min_size=1, max_size=4, unique=True).map(
        lambda texts: {"type": "string", "enum": texts}
    ),
    st.lists(st.integers(-9, 9), min_size=1, max_size=4, unique=True).map(
        lambda values: {"enum": values}
    ),
    _texts.map(lambda text: {"const": text}),
)
leaves: st.SearchStrategy[Schema] = st.one_of(strings, integers, numbers, plain, enums)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    """An object schema, some of its members optional, others allowed or not."""
    properties = draw(st.dictionaries(_names, inner, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    schema: Schema = {"type": "object", "properties": properties, "required": required}
    if draw(st.booleans()):
        schema["additionalProperties"] = False
    return schema


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    """A list schema."""
    return {"type": "array", "items": draw(inner), **draw(_bounded("minItems", "maxItems", 4))}


values: st.SearchStrategy[Schema] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        objects(inner),
        arrays(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda ways: {"anyOf": ways}),
    ),
    max_leaves=8,
)
roots = objects(values)
