"""The store's tables of files, batches, their lines and answers.

The contents of files are in a folder (see ``folder``); answers are here until their batch is over
and its files are written. Times are Unix seconds of the database's clock, which all gateways share.
"""

from typing import Any

from sqlalchemy import BigInteger, Double, Index, Integer, LargeBinary, SmallInteger, String
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import JSON

from cluster.tenants.base import Base

MAX_TENANT = 256
MAX_ID = 64
MAX_HOLDER = 128

OPEN = 0
DONE = 1
FAILED = 2
"""States of a line: not answered yet; answered; answered with an error."""


class FileRow(Base):
    """A file of a tenant; its contents are in the folder under its id."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_tenant_created_at", "tenant", "created_at"),)

    id: Mapped[str] = mapped_column(String(MAX_ID), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(MAX_TENANT))
    purpose: Mapped[str] = mapped_column(String(32))
    filename: Mapped[str] = mapped_column(String(256))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float] = mapped_column(Double)
    expires_at: Mapped[float] = mapped_column(Double)


class BatchRow(Base):
    """A batch. ``owner`` says with whose rights its lines run. ``holder``, ``fence`` and
    ``leased_until`` are of the gateway that checks its input or writes its files."""

    __tablename__ = "batches"
    __table_args__ = (
        Index("ix_batches_tenant_created_at", "tenant", "created_at"),
        Index("ix_batches_phase_created_at", "phase", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(MAX_ID), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(MAX_TENANT))
    owner: Mapped[Any] = mapped_column(JSON)
    endpoint: Mapped[str] = mapped_column(String(64))
    input_file_id: Mapped[str] = mapped_column(String(MAX_ID))
    model: Mapped[str] = mapped_column(String(256), default="")
    meta: Mapped[Any] = mapped_column("metadata", JSON)
    phase: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[str] = mapped_column(String(16))
    errors: Mapped[Any] = mapped_column(JSON)
    total: Mapped[int] = mapped_column(Integer)
    completed: Mapped[int] = mapped_column(Integer)
    failed: Mapped[int] = mapped_column(Integer)
    output_file_id: Mapped[str | None] = mapped_column(String(MAX_ID))
    error_file_id: Mapped[str | None] = mapped_column(String(MAX_ID))
    created_at: Mapped[float] = mapped_column(Double)
    expires_at: Mapped[float] = mapped_column(Double)
    in_progress_at: Mapped[float | None] = mapped_column(Double)
    cancelling_at: Mapped[float | None] = mapped_column(Double)
    finalizing_at: Mapped[float | None] = mapped_column(Double)
    over_at: Mapped[float | None] = mapped_column(Double)
    holder: Mapped[str] = mapped_column(String(MAX_HOLDER))
    fence: Mapped[int] = mapped_column(Integer)
    leased_until: Mapped[float] = mapped_column(Double)


class LineRow(Base):
    """A request of a batch: where it stands in the input file, and who works on it.

    ``fence`` grows with every lease: an answer counts only if it is of the newest one.
    """

    __tablename__ = "batch_lines"
    __table_args__ = (
        Index("ix_batch_lines_batch_id_state_number", "batch_id", "state", "number"),
        Index("ix_batch_lines_holder", "holder"),
    )

    batch_id: Mapped[str] = mapped_column(String(MAX_ID), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    custom_id: Mapped[str] = mapped_column(String(512))
    at_byte: Mapped[int] = mapped_column(BigInteger)
    size_bytes: Mapped[int] = mapped_column(Integer)
    state: Mapped[int] = mapped_column(SmallInteger)
    attempts: Mapped[int] = mapped_column(Integer)
    holder: Mapped[str] = mapped_column(String(MAX_HOLDER))
    fence: Mapped[int] = mapped_column(Integer)
    leased_until: Mapped[float] = mapped_column(Double)
    """Also the time before which a line that was put back is not tried again."""


class AnswerRow(Base):
    """The one answer of a line: a line of the output or the error file."""

    __tablename__ = "batch_answers"

    batch_id: Mapped[str] = mapped_column(String(MAX_ID), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    ok: Mapped[int] = mapped_column(SmallInteger)
    line: Mapped[bytes] = mapped_column(LargeBinary)
