"""The Terraform code as text: formatted, typed, described, and open to nobody."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.terraform.toolbox import (
    EXAMPLES,
    MODULES,
    ROOT,
    Missing,
    found_terraform,
    note,
    or_skip,
)

TERRAFORM = ROOT / "terraform"
FILES = sorted(file for file in TERRAFORM.glob("*/*/*.tf") if ".terraform" not in file.parts)
BLOCK = re.compile(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', re.MULTILINE | re.DOTALL)
MESSAGE = re.compile(r'error_message += "(.*)"$', re.MULTILINE)
CALL = re.compile(
    r'^module "\w+" \{\n  source += "../../modules/([\w-]+)"\n(.*?)^\}', re.MULTILINE | re.DOTALL
)
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


def test_every_variable_is_validated() -> None:
    """By a rule of its own, by its type (bool), or by the module that an example hands it to."""
    checked = {(file.split("/")[1], name) for file, name, body in blocks("variable") if valid(body)}
    for file, name, body in blocks("variable"):
        kind, folder, _ = file.split("/")
        if valid(body):
            continue
        assert kind == "examples", f"{file}: {name} has no validation"
        calls = CALL.findall((TERRAFORM / kind / folder / "main.tf").read_text())
        takers = [
            (module, argument)
            for module, call in calls
            for argument in re.findall(rf"^  (\w+) += .*\bvar\.{name}\b", call, re.MULTILINE)
        ]
        assert set(takers) & checked, f"{file}: {name} is checked by none of {takers}"
    rules = sum(body.count("validation {") for _, _, body in blocks("variable"))
    note(f"variables: {len(blocks('variable'))}, all with type and description; {rules} rules")


def valid(body: str) -> bool:
    return "validation {" in body or bool(re.search(r"^  type += bool$", body, re.MULTILINE))


def test_everything_gets_the_tags_of_its_installation() -> None:
    tags = ("trireme:installation", "trireme:environment", "owner", "managed-by")
    for example in EXAMPLES:
        folder = TERRAFORM / "examples" / example
        default = re.search(
            r"default_tags \{\s+tags = local\.tags", (folder / "versions.tf").read_text()
        )
        assert default, example
        own = re.search(r"^  tags = \{\n(.*?)^  \}", (folder / "main.tf").read_text(), re.M | re.S)
        assert own
        assert [line.split("=")[0].strip(' "') for line in own[1].splitlines()] == list(tags)


def test_what_the_examples_have_in_common_is_the_same() -> None:
    """They stand alone, to be copied; so a word changed in one is changed in all."""
    seen: dict[tuple[str, str], str] = {}
    for file, name, body in blocks("variable"):
        if file.startswith("examples/"):
            # Each has a name, a default and a remark about its stand-in of its own.
            rules = "".join(re.findall(r"^  validation \{\n.*?^  \}\n", body, re.M | re.S))
            shape = re.search(r"^  type += (.*?)\n  description", body, re.M | re.S)
            assert shape
            for part, text in (("type", shape[1]), ("rules", rules)):
                assert seen.setdefault((name, part), text) == text, f"{file}: {name}"
    assert len(seen) > 20
    files = [(TERRAFORM / "examples" / each / "versions.tf").read_text() for each in EXAMPLES]
    assert len(set(files)) == 1


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
        note(f"{example}: {len(lines)} lines of tfvars")


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
