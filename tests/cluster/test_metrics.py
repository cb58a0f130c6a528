"""The metric table: each row makes one object with its labels, and the text that scrapers read."""

import re
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from cluster.metrics import ENGINE_METRICS, GATEWAY_METRICS, TABLES, Metric, Metrics

ROWS = list({row.name: row for table in TABLES.values() for row in table}.values())
KINDS = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
UNIT_ENDINGS = {"seconds": "_seconds", "ratio": "_ratio", "tokens": "_tokens"}
MODELS = ("m",)
POOLS = (("m", "p"),)

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def one(row: Metric, metrics: Metrics) -> Counter | Gauge | Histogram:
    match row.kind:
        case "counter":
            return metrics.counter(row.name)
        case "gauge":
            return metrics.gauge(row.name)
        case "histogram":
            return metrics.histogram(row.name)


def families_of(metrics: Metrics) -> list[Family]:
    """What a scraper reads, without the creation times that the client library adds."""
    text = generate_latest(metrics.registry).decode()
    families = text_string_to_metric_families(text)
    return [family for family in families if not family.name.endswith("_created")]


@every_row
def test_a_row_becomes_an_object_of_its_kind_with_its_labels(row: Metric) -> None:
    metrics = Metrics([row])
    made = one(row, metrics)
    assert isinstance(made, KINDS[row.kind])
    child = made.labels(*("x" for _ in row.labels)) if row.labels else made
    if isinstance(child, Histogram):
        child.observe(row.buckets[0])
    else:
        child.inc()
    (family,) = families_of(metrics)
    assert (family.name, family.type, family.documentation) == (row.name, row.kind, row.help)
    counted = {"counter": "_total", "gauge": "", "histogram": "_count"}[row.kind]
    samples = {sample.name: sample for sample in family.samples}
    assert samples[row.name + counted].value == 1.0
    assert samples[row.name + counted].labels == dict.fromkeys(row.labels, "x")


@every_row
def test_a_row_is_named_and_described_by_the_rules(row: Metric) -> None:
    assert re.fullmatch(r"trireme_[a-z]+(_[a-z]+)*", row.name)
    assert not row.name.endswith("_total")
    assert row.name.endswith(UNIT_ENDINGS.get(row.unit, ""))
    assert row.help.endswith(".")


@every_row
def test_every_label_is_of_the_configuration_or_a_closed_set(row: Metric) -> None:
    sets = list(row.label_sets(MODELS, POOLS))
    assert len(set(sets)) == len(sets) > 0
    assert all(len(each) == len(row.labels) for each in sets)
    assert set(row.values) <= set(row.labels)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_a_process_exports_its_counters_from_zero_and_no_more_than_its_bound(
    table: tuple[Metric, ...],
) -> None:
    models = ("gpt-oss-120b", "gpt-oss-20b")
    pools = tuple((model, f"{model}-{each}") for model in models for each in ("a", "b"))
    metrics = Metrics(table)
    metrics.begin(models, pools)
    samples = [sample for family in families_of(metrics) for sample in family.samples]
    kept = [s for s in samples if not s.name.endswith("_created")]
    assert all(sample.value == 0.0 for sample in kept)
    counted = [row for row in table if row.kind == "counter"]
    assert len([s for s in kept if s.name.endswith("_total")]) == series(counted, models, pools)
    assert len(kept) <= series(table, models, pools) < 2500


def series(
    rows: Iterable[Metric], models: tuple[str, ...], pools: tuple[tuple[str, str], ...]
) -> int:
    """The most series that the rows can have: label sets, times what one of them exposes."""
    each = {row.name: len(row.buckets) + 3 if row.buckets else 1 for row in rows}
    return sum(len(list(row.label_sets(models, pools))) * each[row.name] for row in rows)


@every_row
def test_histograms_alone_have_buckets_and_those_rise(row: Metric) -> None:
    assert bool(row.buckets) == (row.kind == "histogram")
    assert list(row.buckets) == sorted(set(row.buckets))


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_a_whole_table_fits_one_registry(table: tuple[Metric, ...]) -> None:
    metrics = Metrics(table)
    assert len({row.name for row in table}) == len(table)
    for row in table:
        made = one(row, metrics)
        if row.labels:
            made.labels(*("x" for _ in row.labels))
    assert {family.name for family in families_of(metrics)} == {row.name for row in table}


def test_two_processes_worth_of_metrics_live_in_one() -> None:
    first, second = Metrics(GATEWAY_METRICS), Metrics(GATEWAY_METRICS)
    first.counter("trireme_channel_reconnects").inc()
    name = "trireme_channel_reconnects_total"
    assert first.registry.get_sample_value(name) == 1.0
    assert second.registry.get_sample_value(name) == 0.0


def test_a_registry_that_is_given_is_used_even_while_it_is_empty() -> None:
    registry = CollectorRegistry()
    assert Metrics(ENGINE_METRICS, registry).registry is registry


def test_a_metric_asked_for_as_another_kind_is_an_error() -> None:
    metrics = Metrics(GATEWAY_METRICS)
    with pytest.raises(AssertionError):
        metrics.gauge("trireme_requests")
    with pytest.raises(KeyError):
        metrics.counter("trireme_no_such_metric")


def test_the_first_buckets_resolve_what_the_models_do() -> None:
    rows = {row.name: row for row in GATEWAY_METRICS}
    interval = rows["trireme_time_per_output_token_seconds"].buckets
    assert sum(bucket < 0.010 for bucket in interval) >= 4  # vLLM's own begin at 10 ms
    assert rows["trireme_time_to_first_answer_token_seconds"].buckets[-1] >= 600.0
