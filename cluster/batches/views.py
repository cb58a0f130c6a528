"""Files and batches as they are read from the store, and as OpenAI shows them."""

from dataclasses import dataclass
from typing import Any, cast

from cluster.batches.states import Outcome, Phase, status_of
from cluster.batches.tables import BatchRow, FileRow


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose rights a batch has: those that the key has when a line runs, within ``tiers`` and
    ``models`` as they were when the batch was made (None: all). ``key_id`` is empty where callers
    are not told apart."""

    tenant: str = ""
    key_id: str = ""
    tiers: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "key_id": self.key_id,
            "tiers": None if self.tiers is None else list(self.tiers),
            "models": None if self.models is None else list(self.models),
        }


def owner_of(tenant: str, found: dict[str, Any]) -> Owner:
    """As it was stored."""
    tiers, models = found.get("tiers"), found.get("models")
    return Owner(
        tenant,
        found.get("key_id", ""),
        None if tiers is None else tuple(tiers),
        None if models is None else tuple(models),
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch at one moment."""

    id: str
    owner: Owner
    endpoint: str
    input_file_id: str
    phase: Phase
    outcome: Outcome
    fence: int
    total: int
    expires_at: float
    shown: dict[str, Any]
    """OpenAI's batch object."""


def file_object(row: FileRow) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.size_bytes,
        "created_at": int(row.created_at),
        "expires_at": int(row.expires_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
    }


def batch_of(row: BatchRow) -> Batch:
    """A row of the table."""
    phase, outcome = cast(Phase, row.phase), cast(Outcome, row.outcome)
    owner = owner_of(row.tenant, row.owner)
    return Batch(
        row.id,
        owner,
        row.endpoint,
        row.input_file_id,
        phase,
        outcome,
        row.fence,
        row.total,
        row.expires_at,
        _batch_object(row, phase, outcome),
    )


def _batch_object(row: BatchRow, phase: Phase, outcome: Outcome) -> dict[str, Any]:
    status = status_of(phase, outcome)

    def over(told: str) -> int | None:
        return _whole(row.over_at) if status == told else None

    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        # Where OpenAI's schema knows no null, its clients take a missing field for one.
        **({"model": row.model} if row.model else {}),
        **({"errors": {"object": "list", "data": row.errors}} if row.errors else {}),
        "input_file_id": row.input_file_id,
        "completion_window": "24h",
        "status": status,
        **_present(
            output_file_id=row.output_file_id,
            error_file_id=row.error_file_id,
            in_progress_at=_whole(row.in_progress_at),
            finalizing_at=_whole(row.finalizing_at),
            cancelling_at=_whole(row.cancelling_at),
            completed_at=over("completed"),
            failed_at=over("failed"),
            expired_at=over("expired"),
            cancelled_at=over("cancelled"),
        ),
        "created_at": int(row.created_at),
        "expires_at": int(row.expires_at),
        "request_counts": {
            "total": row.total,
            "completed": row.completed,
            "failed": row.failed,
        },
        "metadata": row.meta or None,
    }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
