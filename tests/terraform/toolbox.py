"""Terraform and what it stands on, found or made; and what is missing, in words."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(file.parent.name for file in (ROOT / "terraform/modules").glob("*/versions.tf"))
TESTED_MODULES = [
    name for name in MODULES if (ROOT / "terraform/modules" / name / "tests").is_dir()
]
EXAMPLES = ("trial", "production", "airgapped")

PLUGINS_VARIABLE = "TRIREME_TERRAFORM_PLUGINS"
"""Environment variable: a folder in which providers lie as in a registry: HOST/hashicorp/aws/…"""

OLDEST = (1, 11)

STAND_IN = os.environ.get("TRIREME_TEST_AWS") == "1"
"""Whether the examples are applied to a stand-in for AWS too: minutes, most of them waited."""

only_with_the_stand_in = pytest.mark.skipif(
    not STAND_IN,
    reason="applies to a stand-in for AWS, which takes minutes: TRIREME_TEST_AWS=1 runs it",
)

FIGURES: list[str] = []
"""Lines of counts and minutes that are printed at the end of the run."""


def note(line: str) -> None:
    """Have ``line`` printed at the end, once."""
    if line not in FIGURES:
        FIGURES.append(line)


class Missing(Exception):
    """Something that is not installed here and cannot be had; ``str()`` says what."""


@dataclass
class Terraform:
    """A copy of the tree in ``home``, and a terraform that runs in it."""

    binary: str
    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    provider: Path | None = None

    def folder(self, place: str) -> Path:
        """``modules/x`` or ``examples/x`` in the copy."""
        return self.home / "terraform" / place

    def run(
        self,
        place: str,
        *args: str,
        expect: tuple[int, ...] = (0,),
        timeout_s: float = 600,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """One terraform command; raises AssertionError with its words if it ends otherwise."""
        done = subprocess.run(
            [self.binary, *args],
            cwd=self.folder(place),
            env={**without_account(), **self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        words = f"terraform {' '.join(args)} in {place}: exit {done.returncode}\n"
        assert done.returncode in expect, words + (done.stderr or done.stdout)[-4000:]
        return done


def without_account() -> dict[str, str]:
    """Our environment, without what would lead to a real account of AWS."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def found_terraform() -> str:
    """The binary, if it is new enough. Raises Missing."""
    binary = shutil.which("terraform")
    if binary is None:
        raise Missing("terraform is not installed here, and no package index has it")
    told = subprocess.run(
        [binary, "version", "-json"], capture_output=True, text=True, check=True, timeout=60
    )
    version = json.loads(told.stdout)["terraform_version"]
    if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < OLDEST:
        raise Missing(f"terraform {version} is older than {OLDEST[0]}.{OLDEST[1]}")
    return binary


def plugin_folders() -> Iterator[Path]:
    """Folders of this machine that hold the AWS provider, laid out as in a registry."""
    if os.environ.get(PLUGINS_VARIABLE):
        yield Path(os.environ[PLUGINS_VARIABLE])
        return
    # Where machine images put such mirrors: a folder of the first or second level.
    for top in sorted(Path("/").iterdir()):
        if top.name in ("dev", "proc", "run", "sys", "tmp"):
            continue
        for each in (top, *_folders(top)):
            for found in each.glob("registry.*/hashicorp/aws"):
                # Providers are programs: none that anybody else may have put there.
                if found.stat().st_uid in (0, os.getuid()):
                    yield each


def _folders(top: Path) -> list[Path]:
    try:
        return sorted(each for each in top.iterdir() if each.is_dir())
    except OSError:
        return []


def prepared(home: Path) -> Terraform:
    """The tree copied to ``home`` and ready to plan. Raises Missing.

    The provider comes from a folder of the machine if there is one, else from wherever terraform's
    own settings say, which is the public registry unless they say otherwise.
    """
    binary = found_terraform()
    copy_tree(home)
    quiet = {"TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", "TF_CLI_ARGS": "-no-color"}
    terraform = Terraform(binary, home, quiet)
    mirror = next(plugin_folders(), None)
    if mirror is not None:
        _configure(terraform, f'filesystem_mirror {{\n    path = "{mirror}"\n  }}')
    elif not Path(os.environ.get("TF_CLI_CONFIG_FILE", "")).is_file():
        terraform.environment["TF_CLI_CONFIG_FILE"] = ""
    try:
        terraform.run("examples/trial", "init", "-input=false", timeout_s=240)
    except AssertionError as error:
        reason = " ".join(str(error).split())[-300:]
        raise Missing(f"the AWS provider cannot be had here: {reason}") from error
    (terraform.provider,) = (
        file.resolve()
        for file in _walk(terraform.folder("examples/trial") / ".terraform/providers")
        if file.name.startswith("terraform-provider-aws")
    )
    for place in [*(f"modules/{m}" for m in MODULES), *(f"examples/{e}" for e in EXAMPLES)]:
        terraform.run(place, "get")
    return terraform


def copy_tree(home: Path) -> None:
    """The code and the contract beside it, without what terraform leaves behind."""
    hidden = shutil.ignore_patterns(".terraform", "*.tfstate*", ".terraform.lock.hcl")
    shutil.copytree(ROOT / "terraform", home / "terraform", ignore=hidden)
    shutil.copytree(ROOT / "helm/trireme", home / "helm/trireme")


def _configure(terraform: Terraform, installation: str) -> None:
    file = terraform.home / "terraform.rc"
    file.write_text(f"provider_installation {{\n  {installation}\n}}\n")
    terraform.environment["TF_CLI_CONFIG_FILE"] = str(file)


@contextmanager
def running_provider(terraform: Terraform, **environment: str) -> Iterator[dict[str, str]]:
    """The AWS provider as one process for many commands; yields the environment that names it.

    It is 700 MB: terraform would hash it for each command and start it several times. This is the
    way in which the provider lets itself be debugged. Its settings, such as tags, are those of the
    last command, so commands with different ones must not run at once.
    """
    assert terraform.provider is not None
    process = subprocess.Popen(
        [str(terraform.provider), "-debug"],
        env={**without_account(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            _, name, value = line.strip().partition("TF_REATTACH_PROVIDERS=")
            if name:
                yield {**environment, "TF_REATTACH_PROVIDERS": value.strip("'")}
                return
        raise AssertionError(f"the provider ended: {process.wait()}")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _walk(folder: Path) -> Iterator[Path]:
    for base, _, files in os.walk(folder, followlinks=True):
        yield from (Path(base) / name for name in files)


def tool(name: str, *requirements: str) -> Path:
    """The folder of programs of an environment that holds ``requirements`` and nothing of ours.

    Made on first use, in ``.venv-NAME`` at the root. Raises Missing where they cannot be installed.
    """
    venv = ROOT / f".venv-{name}"
    marker = venv / ".installed"
    if not marker.is_file() or marker.read_text().split() != list(requirements):
        shutil.rmtree(venv, ignore_errors=True)
        commands = (
            [sys.executable, "-m", "venv", str(venv)],
            [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", *requirements],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
            if done.returncode != 0:
                words = " ".join((done.stdout + done.stderr).split())[-300:]
                raise Missing(f"{' '.join(requirements)} cannot be installed here: {words}")
        marker.write_text(" ".join(requirements))
    return venv / "bin"


def or_skip(error: Missing) -> Any:
    """Skip what needs something that is missing, saying what."""
    pytest.skip(str(error))
