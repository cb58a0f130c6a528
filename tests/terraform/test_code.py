"""The Terraform code as text: formatted, typed, described, and open to nobody."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.terraform.toolbox import EXAMPLES, MODULES, ROOT, Missing, found_terraform, or_skip

TERRAFORM = ROOT / "terraform"
FILES = sorted(file for file in TERRAFORM.glob("*/*/*.tf") if ".terraform" not in file.parts)
BLOCK = re.compile(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', re.MULTILINE | re.DOTALL)
MESSAGE = re.compile(r'error_message += "(.*)"$', re.MULTILINE)
REMEDY = re.compile(r"\b(write|set|remove|give|keep|name each|take|upload)\b", re.IGNORECASE)


def blocks(kind: str) -> list[tuple[str, str, str]]:
    """(file, name, body) of all variables or outputs."""
    return [
        (str(file.relative_to(TERRAFORM)), name, body)
        for file in FILES
        for found, name, body in BLOCK.findall(file.read_text())
        if found == kind
    ]


def test_there_is_code() -> None:
    assert {file.parts[-2] for file in FILES} == {*MODULES, *EXAMPLES}
    assert len(blocks("variable")) > 100
    assert len(blocks("output")) > 50


def test_the_code_is_formatted() -> None:
    try:
        terraform = found_terraform()
    except Missing as error:
        or_skip(error)
    done = subprocess.run(
        [terraform, "fmt", "-check", "-recursive", "-list=true", str(TERRAFORM)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"terraform fmt -recursive terraform: {done.stdout}{done.stderr}"


def test_every_variable_has_a_type_and_a_description() -> None:
    for file, name, body in blocks("variable"):
        assert re.search(r"^  type += ", body, re.MULTILINE), f"{file}: {name}"
        assert re.search(r'^  description += ".{8,}"', body, re.MULTILINE), f"{file}: {name}"


def test_every_output_has_a_description() -> None:
    for file, name, body in blocks("output"):
        assert re.search(r'^  description += ".{8,}"', body, re.MULTILINE), f"{file}: {name}"


def test_every_refusal_says_what_to_write() -> None:
    messages = [(file, message) for file in FILES for message in MESSAGE.findall(file.read_text())]
    assert len(messages) > 70
    for file, message in messages:
        assert REMEDY.search(message), f"{file}: {message}"
        assert message.rstrip().endswith("."), f"{file}: {message}"


def test_production_takes_no_more_than_twenty_lines() -> None:
    for example in EXAMPLES:
        text = (TERRAFORM / "examples" / example / "terraform.tfvars.example").read_text()
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        assert len(lines) <= 20, example
        print(f"{example}: {len(lines)} lines of tfvars")


@pytest.mark.parametrize("file", FILES, ids=lambda file: "/".join(file.parts[-2:]))
def test_no_file_names_a_secret_an_account_or_an_open_range(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY", text)
    # As an example of what to write, an account's number is fine.
    plain = re.sub(r'(error_message|description) += ".*"', "", text)
    assert not re.search(r"\b[0-9]{12}\b", plain)
    # A default route is no permission; nothing else is open to the world.
    for line in plain.splitlines():
        if "0.0.0.0/0" in line or "::/0" in line:
            assert "destination_cidr_block" in line, line
