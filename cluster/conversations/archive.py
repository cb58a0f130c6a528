"""Responses in the store: put, read, followed back to the first of a conversation, deleted.

Every call blocks and raises ``StoreError`` where the store does not answer.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, insert, literal, select
from sqlalchemy.orm import aliased

from cluster.conversations.tables import ResponseRow


@dataclass(frozen=True, slots=True)
class Kept:
    """A response as it is stored; see ``ResponseRow``."""

    tenant: str
    id: str
    previous_id: str | None
    created_at: float
    input: bytes
    output: bytes
    response: bytes


class NotKept(LookupError):
    """There is no such response, or one that its conversation began with is gone."""


class TooLong(ValueError):
    """The conversation has more turns, or bytes, than may be read. ``str()`` says how many."""


def put_in(connection: Connection, kept: Kept) -> None:
    """Within a transaction that is open."""
    items_bytes = len(kept.input) + len(kept.output)
    row = {
        "tenant": kept.tenant,
        "id": kept.id,
        "previous_id": kept.previous_id,
        "created_at": kept.created_at,
        "size_bytes": items_bytes + len(kept.response),
        "items_bytes": items_bytes,
        "input": kept.input,
        "output": kept.output,
        "response": kept.response,
    }
    connection.execute(insert(ResponseRow).values(row))


class Archive:
    """The responses of all tenants; none is found under another tenant's name.

    ``oldest`` is Unix time: what was created before counts as gone, whether it is deleted yet or
    not.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, kept: Kept) -> None:
        """Durable when it returns."""
        with self._engine.begin() as connection:
            put_in(connection, kept)

    def get(self, tenant: str, response_id: str, oldest: float) -> Kept:
        """Raises ``NotKept``."""
        row = ResponseRow
        query = select(row.previous_id, row.created_at, row.input, row.output, row.response).where(
            row.tenant == tenant, row.id == response_id, row.created_at >= oldest
        )
        with self._engine.connect() as connection:
            found = connection.execute(query).one_or_none()
        if found is None:
            raise NotKept
        return Kept(
            tenant,
            response_id,
            found.previous_id,
            found.created_at,
            found.input,
            found.output,
            found.response,
        )

    def turns(
        self, tenant: str, response_id: str, oldest: float, *, max_turns: int, max_bytes: int
    ) -> list[tuple[bytes, bytes]]:
        """The conversation up to and with that response, the first turn first: (input, output).

        Raises ``NotKept`` if any turn is gone, and ``TooLong``, before any content is read.
        """
        row = ResponseRow
        chain = (
            select(row.id, row.previous_id, row.items_bytes, literal(1).label("depth"))
            .where(row.tenant == tenant, row.id == response_id, row.created_at >= oldest)
            .cte("chain", recursive=True)
        )
        before = aliased(row)
        chain = chain.union_all(
            select(before.id, before.previous_id, before.items_bytes, chain.c.depth + 1).where(
                before.tenant == tenant,
                before.id == chain.c.previous_id,
                before.created_at >= oldest,
                chain.c.depth < max_turns,
            )
        )
        with self._engine.connect() as connection:
            found = connection.execute(select(chain).order_by(chain.c.depth.desc())).all()
            if not found:
                raise NotKept
            if found[0].previous_id is not None:
                if len(found) >= max_turns:
                    raise TooLong(f"more than {max_turns} turns")
                raise NotKept
            if sum(each.items_bytes for each in found) > max_bytes:
                raise TooLong(f"more than {max_bytes} bytes")
            ids = [each.id for each in found]
            query = select(row.id, row.input, row.output).where(
                row.tenant == tenant, row.id.in_(ids)
            )
            contents = {each.id: (each.input, each.output) for each in connection.execute(query)}
        if len(contents) < len(ids):
            raise NotKept  # deleted since the first look
        return [contents[each] for each in ids]

    def delete(self, tenant: str, response_id: str) -> bool:
        """Whether there was one."""
        row = ResponseRow
        with self._engine.begin() as connection:
            done = connection.execute(
                delete(row).where(row.tenant == tenant, row.id == response_id)
            )
        return done.rowcount > 0
