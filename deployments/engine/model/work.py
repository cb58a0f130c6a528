"""One request inside a replica, and which text its prompt begins with."""

from collections.abc import Hashable
from dataclasses import dataclass, field

PromptText = tuple[tuple[Hashable, int], ...]
"""What a prompt begins with, as (name of a text, KV blocks of it) in order.

Each part counts whole blocks, from the beginning of its text. The last text may go on with the
output (``Work.continues``). A prompt known only by the hashes of its blocks has one part of one
block for each hash.
"""


@dataclass(slots=True, eq=False)
class Work:
    """One request inside a replica. The upper fields are the caller's, the others the model's.

    ``priority``: lower is served first, then the earlier ``arrived_s``. ``output_tokens`` is how
    many tokens the model will write. ``text`` None shares nothing with any other prompt;
    ``continues``: the output belongs to the last text of ``text``, so that a later prompt may begin
    with it too.
    """

    work_id: Hashable
    prompt_tokens: int
    output_tokens: int
    priority: int
    arrived_s: float
    text: PromptText | None = None
    continues: bool = False

    # Of the model: prompt tokens found in the prefix cache at the first scheduling, how often it
    # was preempted, and when its first token was there (NaN until then).
    cached_tokens: int = 0
    preemptions: int = 0
    first_token_s: float = field(default=float("nan"))

    # KV entries to compute before the next token (prompt, and after a preemption the tokens
    # written so far), and those computed.
    to_compute: int = field(default=0, repr=False)
    computed: int = field(default=0, repr=False)
    # Tokens written when it last began to decode, and the model's count of decode steps then.
    written: int = field(default=0, repr=False)
    decode_origin: int = field(default=0, repr=False)
    finish_at: int = field(default=-1, repr=False)
    state: int = field(default=0, repr=False)
    order: int = field(default=0, repr=False)
    ready_step: int = field(default=0, repr=False)
    # Blocks of shared texts that it holds, per part of `text`; and how many of these it holds a
    # second time, as others had computed them first.
    duplicates: int = field(default=0, repr=False)
    shared: list[int] | None = field(default=None, repr=False)
