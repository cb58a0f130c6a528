"""The bounds of a request."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.config import Tier


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be: bytes of its body, characters without a break; and the output tokens
    of a tier's requests that set no limit themselves.

    ``body_s`` is the time in which the whole body must arrive: 4 MiB need 70 kB/s. What is allowed
    of headers and URL is as much as nginx allows.
    """

    max_body_bytes: int
    max_unbroken_run_chars: int
    max_output_tokens: Mapping[Tier, int | None] = field(default_factory=dict)
    body_s: float = 60.0
    max_headers: int = 100
    max_header_bytes: int = 32_768
    max_url_bytes: int = 8_192
