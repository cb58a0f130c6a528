"""Clients that others wrote, unchanged, against a gateway on a socket."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conformance.clients.checks import CASES
from tests.conformance.conftest import node_with, python_with

pytestmark = pytest.mark.timeout(900)

CLIENTS = Path(__file__).with_name("clients")
TYPICAL_S = 240

OF_THEIR_OWN: dict[str, tuple[str, ...]] = {
    "agents_python": ("openai-agents", "langchain-openai", "pydantic-ai-slim[openai]"),
    "langchain_client": ("openai-agents", "langchain-openai", "pydantic-ai-slim[openai]"),
    "pydantic_ai_client": ("openai-agents", "langchain-openai", "pydantic-ai-slim[openai]"),
    "litellm_client": ("litellm", "mcp", "llama-index-llms-openai-like"),
    "llama_index_client": ("litellm", "mcp", "llama-index-llms-openai-like"),
}
"""Which libraries each script needs; those with equal ones share a Python."""


def passes(command: list[str]) -> None:
    """The client has done every case and failed in none."""
    # No proxy between here and here, and no word to anybody about it.
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TYPICAL_S, env=environment, cwd=CLIENTS
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    print(f"{Path(command[1]).name}: {len(lines)} of {len(CASES)} cases")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert [line.partition(": ")[2] for line in lines] == list(CASES)


def test_openai_python(gateway: str) -> None:
    passes([sys.executable, str(CLIENTS / "openai_python.py"), gateway])


@pytest.mark.parametrize("client", OF_THEIR_OWN)
def test_python_clients(request: pytest.FixtureRequest, gateway: str, client: str) -> None:
    python = python_with(request, *OF_THEIR_OWN[client])
    passes([str(python), str(CLIENTS / f"{client}.py"), gateway])


def test_openai_javascript(request: pytest.FixtureRequest, gateway: str) -> None:
    home = node_with(request, "openai")
    passes(["node", str(CLIENTS / "openai_js.mjs"), gateway, str(home)])


def test_agents_javascript(request: pytest.FixtureRequest, gateway: str) -> None:
    home = node_with(request, "@openai/agents", "openai", "zod")
    passes(["node", str(CLIENTS / "agents_js.mjs"), gateway, str(home)])


def test_curl(gateway: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def curl(body: str, *options: str) -> str:
        url = f"{gateway}/v1/chat/completions"
        command = ["curl", "-sS", "--noproxy", "*", "-H", "content-type: application/json"]
        done = subprocess.run(
            [*command, "-d", body, *options, url], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = '"model": "tiny", "messages": [{"role": "user", "content": "SAY fjord"}]'
    assert '"content":"fjord"' in curl("{" + said + "}")
    streamed = curl("{" + said + ', "stream": true}', "-N")
    assert streamed.endswith("data: [DONE]\n\n")
    assert '"model_not_found"' in curl('{"model": "no", "messages": []}')
    busy = said.replace("SAY fjord", "BUSY curl 1")
    assert '"content":"Hello' in curl("{" + busy + "}", "--fail", "--retry", "3")


def test_a_refusal_says_when_to_come_again(gateway: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "BUSY httpx 1"}]}
    with httpx.Client(base_url=gateway, trust_env=False, timeout=60) as client:
        refused = client.post("/v1/chat/completions", json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert client.post("/v1/chat/completions", json=body).status_code == 200
