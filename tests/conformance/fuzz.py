# mypy: ignore-errors
"""schemathesis over the served part of OpenAI's specification.

Run by a Python that has schemathesis: ``python fuzz.py BASE_URL SPEC CASES SEED``. ``CASES`` is how
many to make for each of the two routes with bodies; good and bad ones. A case fails by a 5xx, by a
body (or an event of a stream) that is not of its status's schema, or by a content type that the
specification has not. The last line tells what happened.
"""

import collections
import json
import sys

import jsonschema_rs
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.core.errors import UnsupportedSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

MOST_SEEDS = 50

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def main(base_url, spec, cases, number):
    with open(spec) as file:
        schema = schemathesis.openapi.from_dict(json.load(file))
    schema.config.base_url = base_url + "/v1"
    counts, failures = collections.Counter(), {}
    for result in schema.get_all_operations():
        operation = result.ok()
        modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
        for mode in modes:
            if operation.method == "get" and mode is GenerationMode.NEGATIVE:
                continue
            wanted = cases // 2 if operation.method == "post" else min(cases, 50)
            run(operation, mode, wanted, number, counts, failures)
    for name, (count, example) in sorted(failures.items(), key=lambda each: -each[1][0])[:20]:
        print(f"FAILURE x{count}: {name}\n  {example[:1500]}")
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))
    print(f"cases {sum(counts.values())}, failures {len(failures)}, statuses {statuses}")
    sys.exit(1 if failures else 0)


def run(operation, mode, wanted, number, counts, failures):
    """What schemathesis cannot make the opposite of, it finds out in the middle: then another seed
    makes the rest."""
    before = sum(counts.values())
    for attempt in range(MOST_SEEDS):
        left = wanted - (sum(counts.values()) - before)
        if left <= 0:
            return
        try:
            make(operation, mode, left, number + 1000 * attempt, counts, failures)
            return
        except UnsupportedSchema:
            continue


def make(operation, mode, wanted, number, counts, failures):
    @seed(number)
    @settings(
        max_examples=max(1, wanted),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def each(case):
        # Half of what may be any string would be no model of ours, and all end the same way.
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "tiny"
        response = case.call(timeout=120)
        counts[response.status_code] += 1
        for check in CHECKS:
            try:
                if check is response_schema_conformance and is_stream(response):
                    check_events(operation, response)
                else:
                    case.validate_response(response, checks=[check])
            except (Exception, BaseExceptionGroup) as error:
                lines = [line for line in str(error).splitlines() if line.strip()]
                name = f"{operation.label} {check.__name__}: {' '.join(lines[:4])[:300]}"
                told = f"{json.dumps(case.body, default=repr)[:700]} -> {response.status_code} "
                count, example = failures.get(name, (0, told + response.text[:600]))
                failures[name] = (count + 1, example)

    each()


def is_stream(response):
    return "text/event-stream" in str(response.headers.get("content-type", ""))


def check_events(operation, response):
    """OpenAI's schema is that of an event's data; schemathesis would have it be the event's."""
    definition = operation.definition.raw["responses"]["200"]["content"]["text/event-stream"]
    components = operation.schema.raw_schema["components"]
    schema = {**definition["schema"], "components": components}
    lines = response.text.splitlines()
    events = [line[len("data: ") :] for line in lines if line.startswith("data: ")]
    for event in events:
        if event != "[DONE]":
            jsonschema_rs.validate(schema, json.loads(event))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
