"""Kubernetes' way to write amounts."""

import re

_UNITS = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0,
    "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_FORM = re.compile(r"^([0-9.]+(?:[eE][-+]?[0-9]+)?)([A-Za-z]{0,2})$")


def amount(text: str | int | float) -> float:
    """``500m`` is 0.5, ``64Gi`` is 68719476736. Raises ValueError for what is no quantity."""
    form = _FORM.match(str(text))
    if form is None or form[2] not in _UNITS:
        raise ValueError(f"{text} is no quantity")
    return float(form[1]) * _UNITS[form[2]]
