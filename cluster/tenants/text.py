"""How keys are written: digits and letters only, so that a double click selects all of one."""

import secrets

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def base62(data: bytes) -> str:
    """``data`` as a number in base 62, always as long as the largest of its size."""
    number = int.from_bytes(data, "big")
    largest = (1 << (8 * len(data))) - 1
    found: list[str] = []
    while largest:
        largest //= 62
        number, digit = divmod(number, 62)
        found.append(BASE62[digit])
    return "".join(reversed(found))


def random_text(length: int) -> str:
    """As many characters from the system's source of randomness."""
    return "".join(secrets.choice(BASE62) for _ in range(length))
