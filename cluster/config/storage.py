"""Settings of what is kept for callers: responses, and batches of requests."""

from pydantic import Field, field_validator

from cluster.config.base import KIB, MIB, Settings, refuse
from cluster.errors import Fault


class TenantResponsesConfig(Settings):
    """What is kept of one tenant's responses, where it differs."""

    enabled: bool = Field(default=True, description="False: nothing of this tenant is kept.")
    retain_days: int | None = Field(default=None, ge=1, le=36_500, description="None: as for all.")
    max_responses: int | None = Field(default=None, ge=1, description="None: as for all.")
    max_bytes: int | None = Field(default=None, ge=MIB, description="None: as for all.")


class BackgroundConfig(Settings):
    """Responses with `background: true`, which their callers come back for."""

    max_open: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Of one tenant that are not over; beyond, more are refused (429).",
    )
    max_concurrent: int = Field(
        default=32, ge=1, le=1024, description="That a gateway answers at a time."
    )
    window_s: float = Field(
        default=86_400.0,
        ge=60,
        le=86_400,
        description="Seconds after which one that found no room yet fails.",
    )
    lease_s: float = Field(
        default=30.0,
        ge=1,
        le=600,
        description="Seconds after which a response of a gateway that died is another's.",
    )


class ResponsesConfig(Settings):
    """Responses kept for their callers, so that a conversation goes on from `previous_response_id`.

    Prompts and answers then lie in the store (`access.store_url`), which is for the operator to
    decide: off, nothing of any request's content is written anywhere.
    """

    enabled: bool = Field(
        default=False,
        description="Whether responses may be kept. Gateways on several machines need PostgreSQL "
        "for it: a SQLite file is on one of them only.",
    )
    store_by_default: bool = Field(
        default=True,
        description="Whether a response is kept where its request does not write `store`. True is "
        "OpenAI's way, which clients rely on; false: only where it writes `store: true`.",
    )
    retain_days: int = Field(
        default=30, ge=1, le=36_500, description="Days after which a response is deleted."
    )
    max_responses: int = Field(
        default=100_000, ge=1, description="Of one tenant; beyond, the oldest are deleted."
    )
    max_bytes: int = Field(
        default=1024 * MIB, ge=MIB, description="Of one tenant; beyond, the oldest are deleted."
    )
    max_turns: int = Field(
        default=200, ge=1, le=1024, description="Responses that one conversation may go on from."
    )
    max_conversation_bytes: int = Field(
        default=4 * MIB,
        ge=4096,
        le=64 * MIB,
        description="Size of the items that a conversation may go on from, as JSON.",
    )
    max_wait_s: float = Field(
        default=3.0,
        gt=0,
        le=60,
        description="Seconds that a request waits for the store, each way. Beyond, a conversation "
        "is refused (503), and an answer goes out as not kept (`store: false`).",
    )
    background: BackgroundConfig = Field(
        default_factory=BackgroundConfig,
        description="Responses that nobody waits for on a connection (`background: true`).",
    )
    tenants: dict[str, TenantResponsesConfig] = Field(
        default_factory=dict, description="Exceptions, by tenant."
    )


class BatchConfig(Settings):
    """OpenAI's batches: files of requests that are answered in spare time, within 24 hours.

    Requests and answers then lie in `folder`, and until a batch is over in the store
    (`access.store_url`): off, nothing of any request's content is written anywhere.
    """

    enabled: bool = Field(
        default=False,
        description="Whether `/v1/files` and `/v1/batches` are served. Gateways on several "
        "machines need PostgreSQL and a `folder` that all of them reach.",
    )
    folder: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Where files are: an absolute path, or a URL that fsspec knows, like "
        "s3://bucket/prefix (which needs the extra `s3`). None: in the state folder.",
    )
    max_concurrent_lines: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="Requests of batches that a gateway runs at a time, while nothing waits in its "
        "queues.",
    )
    max_lines: int = Field(default=50_000, ge=1, le=1_000_000, description="Of one input file.")
    max_file_bytes: int = Field(
        default=200 * MIB, ge=KIB, le=1024 * MIB, description="Size of one input file."
    )
    max_open_batches: int = Field(
        default=20, ge=1, le=10_000, description="Batches of one tenant that are not over."
    )
    max_files: int = Field(default=1000, ge=1, le=1_000_000, description="Of one tenant.")
    max_bytes: int = Field(
        default=10 * 1024 * MIB,
        ge=MIB,
        description="Of one tenant's files; beyond, no more can be uploaded.",
    )
    retain_days: int = Field(
        default=30, ge=1, le=3650, description="Days after which files and batches are deleted."
    )
    lease_s: float = Field(
        default=30.0,
        ge=1,
        le=600,
        description="Seconds after which a request of a gateway that died is another's.",
    )
    max_wait_s: float = Field(
        default=5.0, gt=0, le=60, description="Seconds that a caller waits for the store."
    )

    @field_validator("folder")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and "://" not in value and not value.startswith("/"):
            problem = f"{value[:80]} is neither an absolute path nor a URL"
            refuse([Fault("", problem, "write one that begins with / or with s3://")])
        return value
