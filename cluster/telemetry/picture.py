"""The cluster at one moment, as `trireme top` shows it: from what each process says of itself."""

from typing import Any

from cluster.config import TIERS

Told = dict[str, Any]


def picture(shown: Told, gateways: list[Told], decisions: list[Told], before: Told | None) -> Told:
    """One picture. ``shown`` is that of ``trireme status``, ``gateways`` are their own words,
    ``decisions`` the autoscaler's, newest first, and ``before`` an earlier picture, of which the
    shares of kept objectives are counted on."""
    return {
        "name": shown["name"],
        "endpoint": shown["endpoint"],
        "up": shown["up"],
        "stale": shown["stale"],
        "tiers": _tiers(shown, gateways, before),
        "replicas": [_replica(each, gateways) for each in shown["replicas"]],
        "gateways": shown["gateways"],
        "decisions": [_decision(pool, each) for each in decisions for pool in each["pools"]],
        "counts": _counts(gateways),
    }


def _tiers(shown: Told, gateways: list[Told], before: Told | None) -> list[Told]:
    counts, earlier = _counts(gateways), {} if before is None else before["counts"]
    drains: dict[tuple[str, str], float] = {}
    for gateway in gateways:
        for queue in gateway.get("queues", ()):
            key = queue["model"], queue["tier"]
            drains[key] = max(drains.get(key, 0.0), queue["drain_s"])
    return [
        {
            **each,
            "drain_s": drains.get((each["model"], each["tier"]), 0.0),
            "kept": {
                objective: _share(counts, earlier, f"{each['model']} {each['tier']} {objective}")
                for objective in ("served", "ttft", "tpot")
            },
        }
        for each in sorted(shown["tiers"], key=lambda e: (e["model"], TIERS.index(e["tier"])))
    ]


def _counts(gateways: list[Told]) -> dict[str, list[int]]:
    """(kept, missed) by model, tier and objective, over all gateways."""
    found: dict[str, list[int]] = {}
    for gateway in gateways:
        for each in gateway.get("objectives", ()):
            key = f"{each['model']} {each['tier']} {each['objective']}"
            sums = found.setdefault(key, [0, 0])
            sums[0] += each["kept"]
            sums[1] += each["missed"]
    return found


def _share(now: dict[str, list[int]], earlier: dict[str, list[int]], key: str) -> float | None:
    """Kept of all since then; None if there was nothing. A gateway that began anew counts whole."""
    kept, missed = now.get(key, [0, 0])
    kept_before, missed_before = earlier.get(key, [0, 0])
    if kept >= kept_before and missed >= missed_before:
        kept, missed = kept - kept_before, missed - missed_before
    return kept / (kept + missed) if kept + missed else None


def _replica(replica: Told, gateways: list[Told]) -> Told:
    """Its own word, and why some gateway gives it nothing."""
    aside = ""
    draining = False
    for gateway in gateways:
        for seen in gateway.get("replicas", ()):
            if seen["replica"] == replica["replica"]:
                aside = aside or seen.get("aside", "")
                draining = draining or seen["draining"]
    state = "ok" if replica["healthy"] else "lost"
    return {
        "replica": replica["replica"],
        "pool": replica.get("pool", "?"),
        "state": aside or ("draining" if draining else state),
        "running": replica.get("running", 0),
        "waiting": replica.get("waiting", 0),
        "kv_use": replica.get("kv_use", 0.0),
        "step_ms": round(1000.0 * replica.get("step_s", 0.0), 2),
    }


def _decision(pool: Told, decision: Told) -> Told:
    return {
        "clock": decision["clock"],
        "pool": pool["pool"],
        "before": pool["before"],
        "wanted": pool["wanted"],
        "why": pool["why"],
    }
