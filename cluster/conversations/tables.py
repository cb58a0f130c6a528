"""The store's tables of responses: one row a response, written once, and those that are not yet
answered."""

from typing import Any

from sqlalchemy import BigInteger, Double, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import JSON

from cluster.tenants.base import Base

MAX_TENANT = 256
MAX_ID = 128
MAX_HOLDER = 128


class ResponseRow(Base):
    """A turn of a conversation, which ``previous_id`` goes on from.

    ``input`` holds the items that its request brought, ``output`` those of its answer, and
    ``response`` the rest of the answer; all are JSON. ``items_bytes`` is the size of the first
    two, ``size_bytes`` of all three. ``tenant`` is empty where callers are not told apart.
    ``created_at`` is in Unix seconds.
    """

    __tablename__ = "responses"
    __table_args__ = (
        # Who holds how much is read from it alone, without a look at the rows.
        Index("ix_responses_tenant_created_at_size_bytes", "tenant", "created_at", "size_bytes"),
    )

    tenant: Mapped[str] = mapped_column(String(MAX_TENANT), primary_key=True)
    id: Mapped[str] = mapped_column(String(MAX_ID), primary_key=True)
    previous_id: Mapped[str | None] = mapped_column(String(MAX_ID))
    created_at: Mapped[float] = mapped_column(Double)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    items_bytes: Mapped[int] = mapped_column(BigInteger)
    input: Mapped[bytes] = mapped_column(LargeBinary)
    output: Mapped[bytes] = mapped_column(LargeBinary)
    response: Mapped[bytes] = mapped_column(LargeBinary)


class BackgroundRow(Base):
    """A response that is asked for and not over: it moves to ``responses`` when it is.

    ``owner`` says with whose rights it runs; ``request`` is what was asked without its ``input``,
    and ``shown`` the response as its caller sees it until then; all are JSON. ``holder``,
    ``fence`` and ``leased_until`` (by the database's clock) are of the gateway that answers it; the
    fence grows with every lease, and is 0 as long as nobody has begun.
    """

    __tablename__ = "background_responses"

    id: Mapped[str] = mapped_column(String(MAX_ID), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(MAX_TENANT), index=True)
    previous_id: Mapped[str | None] = mapped_column(String(MAX_ID))
    created_at: Mapped[float] = mapped_column(Double)
    owner: Mapped[Any] = mapped_column(JSON)
    input: Mapped[bytes] = mapped_column(LargeBinary)
    request: Mapped[bytes] = mapped_column(LargeBinary)
    shown: Mapped[bytes] = mapped_column(LargeBinary)
    attempts: Mapped[int] = mapped_column(Integer)
    holder: Mapped[str] = mapped_column(String(MAX_HOLDER), index=True)
    fence: Mapped[int] = mapped_column(Integer)
    leased_until: Mapped[float] = mapped_column(Double, index=True)
    """Also the time before which one that was put back is not tried again."""
