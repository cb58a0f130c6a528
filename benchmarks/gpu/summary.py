"""What the stages have found, as tables: the two sides beside each other, steps, continuations."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import report

Result = Mapping[str, Any]

GOAL_THROUGHPUT, GOAL_TTFT_MS = 0.99, 3.0
"""What Trireme is to reach of bare vLLM's throughput, and the TTFT that it may add."""

Key = tuple[int, int, int]


def closed_points(results: Iterable[Result], side: str) -> dict[Key, Result]:
    """Points of the closed loop by (isl, osl, concurrency), without those that had errors."""
    return {
        (point["isl"], point["osl"], point["concurrency"]): point
        for result in results
        if result["kind"] == "closed" and result["side"] == side
        for point in result["points"]
        if not point["errors"]
    }


def compare(results: Iterable[Result]) -> tuple[list[list[str]], dict[str, float]]:
    """Rows of the table and figures by name, of the points that both sides have."""
    results = list(results)
    bare, trireme = closed_points(results, "bare"), closed_points(results, "trireme")
    rows, figures = [], {}
    for key in sorted(bare.keys() & trireme.keys()):
        one, two = bare[key], trireme[key]
        isl, osl, concurrency = key
        name = f"{isl}/{osl} at {concurrency}"
        share = two["tokens_per_s"] / one["tokens_per_s"]
        added_ms = two["ttft_ms"]["p50"] - one["ttft_ms"]["p50"]
        figures[f"{name}/throughput ratio"] = share
        figures[f"{name}/added TTFT p50 ms"] = added_ms
        figures[f"{name}/added CPU us a token"] = two["cpu_us_a_token"] - one["cpu_us_a_token"]
        met = share >= GOAL_THROUGHPUT and added_ms <= GOAL_TTFT_MS
        rows.append(
            [
                name,
                f"{one['tokens_per_s']:.0f} / {two['tokens_per_s']:.0f}",
                f"{100 * share:.1f} %",
                f"{one['ttft_ms']['p50']:.1f} / {two['ttft_ms']['p50']:.1f}",
                f"{added_ms:+.1f}",
                f"{one['tpot_ms']['p50']:.2f} / {two['tpot_ms']['p50']:.2f}",
                f"{one['cpu_us_a_token']:.0f} / {two['cpu_us_a_token']:.0f}",
                "yes" if met else "NO",
            ]
        )
    return rows, figures


COLUMNS = (
    "tokens in/out, clients", "tokens/s: bare / Trireme", "ratio", "TTFT p50, ms", "added",
    "TPOT p50, ms", "CPU µs a token", "goals",
)  # fmt: skip


def summarise(results: list[dict[str, Any]], json_file: Path | None) -> None:
    """Print all tables for which there are results; write the figures if asked to."""
    rows, figures = compare(results)
    goals = f"≥ {100 * GOAL_THROUGHPUT:.0f} % of the tokens, ≤ {GOAL_TTFT_MS:.0f} ms of TTFT"
    if rows:
        report(f"Closed loops ({goals})", COLUMNS, rows, {}, None)
    for kind, table in (
        ("mix", _mix),
        ("steps", _steps),
        ("exact", _exact),
    ):
        found = [each for each in results if each["kind"] == kind and each.get("finished")]
        if found:
            table(found, figures)
    _starts(results, figures)
    failed = [
        f"{result['stage']} at {point['concurrency']}: {point['errors']} of {point['requests']}"
        for result in results
        if result["kind"] == "closed"
        for point in result["points"]
        if point["errors"]
    ]
    for each in failed:
        print(f"requests failed, {each}")
    if json_file is not None:
        report("", [], [], figures, json_file)


def _mix(found: list[dict[str, Any]], figures: dict[str, float]) -> None:
    rows = []
    for result in found:
        (point,) = result["points"]
        for tier, each in point["tiers"].items():
            if "ttft_ms" not in each:
                continue
            name = f"mix/{result['side']}/{tier}"
            figures[f"{name}/TTFT p50 ms"] = each["ttft_ms"]["p50"]
            figures[f"{name}/TPOT p50 ms"] = each["tpot_ms"]["p50"]
            times = [
                f"{each[what][share]:.1f}"
                for what in ("ttft_ms", "tpot_ms")
                for share in ("p50", "p99")
            ]
            rows.append([f"{tier}, {result['side']}", str(each["requests"]),
                         str(each["errors"]), *times])  # fmt: skip
    columns = ("tier", "requests", "errors", "TTFT p50, ms", "p99", "TPOT p50, ms", "p99")
    report("Mix of tiers, open loop", columns, sorted(rows), {}, None)


def _steps(found: list[dict[str, Any]], figures: dict[str, float]) -> None:
    (result,) = found
    rows = []
    for each in result["decode"]:
        name = f"step/{each['batch']:.0f} requests, {each['kv_tokens']:.0f} KV tokens/ms"
        figures[name] = each["step_ms"]
        rows.append(["decode", f"{each['batch']:.0f}", f"{each['kv_tokens']:.0f}",
                     f"{each['step_ms']:.2f}"])  # fmt: skip
    for each in result["prefill"]:
        figures[f"prefill/{each['prompt_tokens']} tokens/ms"] = each["first_token_ms"]
        rows.append(["prefill", "1", f"{each['prompt_tokens']}", f"{each['first_token_ms']:.2f}"])
    report("Engine steps", ("kind", "requests", "tokens", "ms"), rows, {}, None)


def _exact(found: list[dict[str, Any]], figures: dict[str, float]) -> None:
    rows = []
    for result in found:
        if "refused" in result:
            rows.append([result["stage"], result["refused"].splitlines()[-1][:60], "", "", ""])
            continue
        for case, each in result["cases"].items():
            figures[f"{result['stage']}/{case}/cuts"] = each["cuts"]
            figures[f"{result['stage']}/{case}/wrong"] = each["wrong"]
            counts = (each[name] for name in ("prompts", "cuts", "wrong"))
            rows.append([result["stage"], case, *map(str, counts)])
    columns = ("stage", "case", "prompts", "cuts", "wrong")
    report("Answers cut at every token and continued", columns, rows, {}, None)


def _starts(results: list[dict[str, Any]], figures: dict[str, float]) -> None:
    """One start of each side: the first that is known."""
    rows = []
    for side in ("bare", "trireme"):
        starts = [each["start_s"] for each in results
                  if each["side"] == side and isinstance(each.get("start_s"), dict)]  # fmt: skip
        for phase, seconds in starts[0].items() if starts else ():
            figures[f"start/{side}/{phase} s"] = seconds
            rows.append([side, phase, f"{seconds:.1f}"])
    report("From nothing to ready", ("side", "phase", "s"), rows, {}, None)
