"""The store's table of responses: one row a response, written once."""

from sqlalchemy import BigInteger, Double, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from cluster.tenants.base import Base

MAX_TENANT = 256
MAX_ID = 128


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
