"""Which metrics a PromQL expression reads, and which of those anybody exports."""

import re
from collections.abc import Mapping

from cluster.metrics import TABLES, Metric
from cluster.telemetry.rules import recordings

FOREIGN: Mapping[str, tuple[str, ...]] = {
    "up": ("instance", "job"),
    "process_start_time_seconds": ("instance", "job"),
    "process_resident_memory_bytes": ("instance", "job"),
    "process_cpu_seconds_total": ("instance", "job"),
    "vllm:num_requests_running": ("model_name", "engine"),
    "vllm:num_requests_waiting": ("model_name", "engine"),
    "vllm:kv_cache_usage_perc": ("model_name", "engine"),
    "vllm:prefix_cache_queries_total": ("model_name", "engine"),
    "vllm:prefix_cache_hits_total": ("model_name", "engine"),
}
"""What Prometheus itself and others in our processes export, with their labels, as far as we
query it."""

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}

_NAME = re.compile(r"(?<![\w:\"'$])(?:trireme_|vllm:|process_|(?:tier|model):)[\w:]+|\bup\b")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def rows() -> dict[str, Metric]:
    """Every row of the table, by name, in order."""
    return {row.name: row for table in TABLES.values() for row in table}


def exported() -> dict[str, Metric]:
    """Every name under which a row's samples appear."""
    return {row.name + suffix: row for row in rows().values() for suffix in SUFFIXES[row.kind]}


def read_by(expr: str) -> set[str]:
    """Names of the series that ``expr`` reads."""
    return set(_NAME.findall(_STRING.sub('""', expr)))


def unknown_in(expr: str) -> set[str]:
    """Names in ``expr`` that nobody exports or records."""
    return read_by(expr) - exported().keys() - FOREIGN.keys() - {each.name for each in recordings()}
