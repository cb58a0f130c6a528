"""A gateway's page for people: tiers, objectives and replicas as it sees them, read-only.

One HTML text without anything from elsewhere. It asks the listener that it came from for
``/status`` and writes what it gets as text, never as HTML.
"""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Trireme</title>
<style>
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #ddd;
         font-variant-numeric: tabular-nums; }
th { font-weight: 500; color: #666; }
.word { text-align: left; }
.good { color: #00714f; } .fair { color: #9a5b00; } .bad { color: #b3261e; font-weight: 600; }
#state.bad, #state.good { font-weight: 600; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818; } th { color: #999; } th, td { border-color: #333; }
  .good { color: #4cc9a0; } .fair { color: #e5a94b; } .bad { color: #ff7b72; }
  a { color: #7ab7ff; }
}
</style>
<h1>Trireme · <span id="gateway">…</span> · <span id="state" role="status">…</span></h1>
<p>What this gateway sees. Shares of kept objectives count since the page was opened.
<a href="metrics">metrics</a> · <a href="decisions">decisions</a> ·
<a href="quarantine">quarantine</a> · <a href="status">status</a></p>
<h2>Tiers</h2>
<table><thead><tr><th class="word">model<th class="word">tier<th>queued<th>oldest<th>backlog
<th>in flight<th>served<th>first token<th>pace</tr></thead><tbody id="tiers"></tbody></table>
<h2>Replicas</h2>
<table><thead><tr><th class="word">replica<th class="word">pool<th class="word">state
<th>low<th>medium<th>high<th>of others<th>step</tr></thead><tbody id="replicas"></tbody></table>
<script>
"use strict";
const TIERS = ["low", "medium", "high"], OBJECTIVES = ["served", "ttft", "tpot"];
const at = id => document.getElementById(id);
let first = null;

function rows(id, lists) {
  at(id).replaceChildren(...lists.map(cells => {
    const row = document.createElement("tr");
    for (const [text, kind] of cells) {
      const cell = row.insertCell();
      cell.textContent = text;
      cell.className = kind || "";
    }
    return row;
  }));
}

function counts(status) {
  return Object.fromEntries(status.objectives.map(
    each => [`${each.model} ${each.tier} ${each.objective}`, [each.kept, each.missed]]));
}

function share(now, key) {
  const [kept, missed] = now[key], [k, m] = first[key] || [0, 0];
  const all = kept + missed - k - m;
  if (all <= 0) return ["–", ""];
  const value = (kept - k) / all;
  return [(100 * value).toFixed(1) + " %", value >= 0.99 ? "good" : value >= 0.95 ? "fair" : "bad"];
}

function show(status) {
  const now = counts(status);
  if (first === null || Object.keys(now).some(key => now[key][0] < (first[key] || [0])[0]))
    first = now;
  at("gateway").textContent = status.gateway;
  at("state").textContent = status.ready ? "ready" : "not ready";
  at("state").className = status.ready ? "good" : "bad";
  rows("tiers", status.queues.map(queue => {
    const flying = status.replicas.filter(each => each.model === queue.model)
      .reduce((sum, each) => sum + each.tiers[queue.tier], 0);
    return [[queue.model, "word"], [queue.tier, "word"], [queue.queued],
      [queue.oldest_wait_s.toFixed(1) + " s"], [queue.drain_s.toFixed(1) + " s"], [flying],
      ...OBJECTIVES.map(name => share(now, `${queue.model} ${queue.tier} ${name}`))];
  }));
  rows("replicas", status.replicas.map(each => {
    const state = each.aside || (each.draining ? "draining" : "ok");
    return [[each.replica, "word"], [each.pool, "word"],
      [state, "word " + (state === "ok" ? "good" : "bad")],
      ...TIERS.map(tier => [each.tiers[tier]]), [each.of_others],
      [each.step_ms.toFixed(1) + " ms"]];
  }));
}

async function look() {
  try {
    const answer = await fetch("status", { cache: "no-store" });
    show(await answer.json());
  } catch (error) {
    at("state").textContent = "does not answer";
    at("state").className = "bad";
  }
  setTimeout(look, 2000);
}
look();
</script>
"""
