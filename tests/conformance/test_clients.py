"""Clients that others wrote, unchanged, against a gateway on a socket.

The model behind it is scripted. ``TRIREME_TEST_CLIENTS_LIVE=1`` tries them against a whole cluster:
`./trireme up` with HAProxy, two gateways and two real vLLM engines.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.clients.checks import (
    CALL,
    CASES,
    PERSON,
    RETRIES,
    SAY_PERSON,
    WEATHER,
    at_once,
    busy,
)
from tests.conformance.installed import node_with, python_with
from tests.conformance.served import Served

pytestmark = pytest.mark.timeout(900)

CLIENTS = Path(__file__).with_name("clients")
TYPICAL_S = 240
FUNCTION = {"name": "get_weather", "parameters": WEATHER}

OF_THEIR_OWN: dict[str, tuple[str, ...]] = {
    "agents_python": ("openai-agents", "langchain-openai", "pydantic-ai-slim[openai]"),
    "langchain_client": ("openai-agents", "langchain-openai", "pydantic-ai-slim[openai]"),
    "pydantic_ai_client": ("openai-agents", "langchain-openai", "pydantic-ai-slim[openai]"),
    "litellm_client": ("litellm", "mcp", "llama-index-llms-openai-like"),
    "llama_index_client": ("litellm", "mcp", "llama-index-llms-openai-like"),
}
"""Which libraries each script needs; those with equal ones share a Python."""


def passes(served: Served, command: list[str]) -> None:
    """The client has done every case and failed in none; a cluster has refused some requests on
    the way, which came again by themselves."""
    refused = served.refusals() if served.cluster else 0.0
    # No proxy between here and here, and no word to anybody about it.
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= served.environ() | {
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TYPICAL_S, env=environment, cwd=CLIENTS
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    refused = served.refusals() - refused if served.cluster else 0.0
    told = f", {refused:.0f} refusals met" if served.cluster else ""
    print(f"{Path(command[1]).name}: {len(lines)} of {len(CASES)} cases{told}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert [line.partition(": ")[2] for line in lines] == list(CASES)
    assert refused > 0 or served.cluster is None


def test_openai_python(served: Served) -> None:
    passes(served, [sys.executable, str(CLIENTS / "openai_python.py"), served.url])


@pytest.mark.parametrize("client", OF_THEIR_OWN)
def test_python_clients(request: pytest.FixtureRequest, served: Served, client: str) -> None:
    python = python_with(request, *OF_THEIR_OWN[client])
    passes(served, [str(python), str(CLIENTS / f"{client}.py"), served.url])


def test_openai_javascript(request: pytest.FixtureRequest, served: Served) -> None:
    home = node_with(request, "openai")
    passes(served, ["node", str(CLIENTS / "openai_js.mjs"), served.url, str(home)])


def test_agents_javascript(request: pytest.FixtureRequest, served: Served) -> None:
    home = node_with(request, "@openai/agents", "openai", "zod")
    passes(served, ["node", str(CLIENTS / "agents_js.mjs"), served.url, str(home)])


def test_curl(served: Served) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def curl(content: str, *options: str, key: str = served.key, **more: Any) -> str:
        messages = [{"role": "user", "content": content}]
        body = json.dumps({"model": "tiny", "messages": messages, **more})
        command = ["curl", "-sS", "--noproxy", "*", "-H", "content-type: application/json"]
        command += ["-H", f"authorization: Bearer {key}", "-d", body, *options]
        done = subprocess.run(
            [*command, f"{served.url}/v1/chat/completions"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert '"content":"fjord"' in curl("SAY fjord")
    assert curl("SAY fjord", "-N", stream=True).endswith("data: [DONE]\n\n")
    called = curl(CALL, tools=[{"type": "function", "function": FUNCTION}])
    assert json.loads(_message(called)["tool_calls"][0]["function"]["arguments"]) == {
        "city": "Oslo"
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": {"type": "object"}}}
    assert json.loads(_message(curl(SAY_PERSON, response_format=form))["content"]) == PERSON
    assert '"model_not_found"' in curl("x", model="no")

    def patient(content: str) -> str:
        return curl(content, "--fail", "--retry", str(RETRIES), key=served.busy_key)

    refused = served.refusals() if served.cluster else 0.0
    assert all(_message(answer)["content"] for answer in at_once(patient, busy("curl")))
    assert served.cluster is None or served.refusals() > refused
    print(f"curl: {len(CASES)} of {len(CASES)} cases")


def _message(answer: str) -> Any:
    return json.loads(answer)["choices"][0]["message"]


def test_a_refusal_says_when_to_come_again(served: Served) -> None:
    headers = {"authorization": f"Bearer {served.busy_key}"}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "BUSY httpx 1"}]}
    path = "/v1/chat/completions"
    with httpx.Client(base_url=served.url, trust_env=False, timeout=60, headers=headers) as client:
        with contextlib.ExitStack() as stack:
            if served.cluster is not None:
                # Something of the same tenant is still being answered.
                long = {**body, "stream": True, "max_tokens": 4000, "ignore_eos": True}
                running = stack.enter_context(client.stream("POST", path, json=long))
                next(running.iter_lines())
            refused = client.post(path, json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        for _ in range(RETRIES):
            answered = client.post(path, json=body)
            if answered.status_code != 429:
                break
            time.sleep(int(answered.headers["retry-after"]))
        assert answered.status_code == 200
