"""The examples of docs/api.md do what they say, and the OpenAPI document is one."""

import json
import re
import shutil
import subprocess
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.conformance.conftest import ROOT

DOC = (ROOT / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"```sh\n(.*?)```\n\n```(json|text)\n(.*?)```", DOC, re.S)

pytestmark = pytest.mark.timeout(900)


def shape(value: Any) -> Any:
    """Keys and kinds."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return type(value).__name__


def lacks(told: Any, real: Any, where: str = "") -> list[str]:
    """What the documented shape has and the real one has not."""
    if isinstance(told, dict) and isinstance(real, dict):
        return [
            fault
            for key, each in told.items()
            for fault in (
                lacks(each, real[key], f"{where}.{key}") if key in real else [f"{where}.{key}"]
            )
        ]
    if isinstance(told, list) and isinstance(real, list):
        pairs = zip(told, real, strict=False)
        short = [where] if len(real) < len(told) else []
        return short + [fault for a, b in pairs for fault in lacks(a, b, f"{where}[]")]
    return [] if told == real else [f"{where}: {told} is {real}"]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_answers_as_documented(gateway: str, number: int) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command, kind, told = EXAMPLES[number]
    command = command.replace("$TRIREME", gateway).replace("gpt-oss-120b", "tiny")
    done = subprocess.run(
        ["bash", "-c", command.replace("curl ", "curl --noproxy '*' ", 1)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if kind == "json":
        assert lacks(shape(json.loads(told)), shape(json.loads(done.stdout))) == []
    else:
        chunks = [line for line in done.stdout.splitlines() if line]
        assert chunks[-1] == "data: [DONE]"
        assert chunks[0].endswith('"usage":null}')


def test_every_example_of_the_page_is_run() -> None:
    assert len(EXAMPLES) == DOC.count("```sh") == 4


def test_the_openapi_document_names_every_route(gateway: str) -> None:
    with httpx.Client(base_url=gateway, trust_env=False, timeout=60) as client:
        document = client.get("/openapi.json").json()
        assert document["openapi"].startswith("3.1")
        for path, operations in document["paths"].items():
            assert path in DOC.replace("{name}", "{model}")
            for method, operation in operations.items():
                assert operation["summary"]
                at = path.replace("{model}", "tiny").replace("{response_id}", "resp_1")
                answer = client.request(method.upper(), at)
                # Neither usage nor responses nor files are kept here.
                kept = path.startswith(("/v1/usage", "/v1/files", "/v1/batches"))
                kept = kept or "{response_id}" in path
                assert answer.status_code == 404 if kept else answer.status_code in (200, 415), path
                body = operation.get("requestBody")
                if body is not None:
                    (content,) = body["content"].values()
                    Draft202012Validator.check_schema(content["schema"])
