"""Weights that are not what they should be are not loaded."""

import json
import subprocess
from pathlib import Path

import pytest

from cluster.checksums import BadWeights, check_formats, read_manifest, verify
from cluster.config import SAFE_LOAD_FORMATS, ModelConfig, PoolConfig
from cluster.errors import ConfigError
from cluster.loading import load
from cluster.weights import prepare


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model's folder, and its manifest beside the weights."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text('{"model_type": "gpt_oss"}')
    (made / "tokenizer_config.json").write_text("{}")
    for index in range(3):
        (made / f"model-{index}.safetensors").write_bytes(bytes([index]) * 3_000_000)
    names = sorted(each.name for each in made.iterdir())
    sums = subprocess.run(["sha256sum", *names], cwd=made, capture_output=True, check=True)
    (made / "SHA256SUMS").write_bytes(sums.stdout)
    return made


def model(folder: Path, **more: object) -> ModelConfig:
    return ModelConfig.model_validate({"name": "m", "source": str(folder), **more})


def test_weights_that_are_as_their_manifest_says_are_loaded(folder: Path) -> None:
    manifest = folder / "SHA256SUMS"
    size = sum(each.stat().st_size for each in folder.iterdir() if each != manifest)
    assert verify(folder, manifest) == size
    said = prepare(model(folder, manifest=str(manifest)))
    assert said == f"m: {folder}, {size} bytes as in {manifest}"


@pytest.mark.parametrize("name", ["model-1.safetensors", "config.json"])
def test_one_bit_that_differs_is_found(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BadWeights, match=f"{name} is not what"):
        verify(folder, folder / "SHA256SUMS")


def test_a_file_too_few_or_too_many_is_found(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ x }}")
    with pytest.raises(BadWeights, match=r"chat_template\.jinja is not in the manifest"):
        verify(folder, folder / "SHA256SUMS")
    (folder / "chat_template.jinja").unlink()
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(BadWeights, match=r"model-2\.safetensors is missing"):
        verify(folder, folder / "SHA256SUMS")


@pytest.mark.parametrize(
    "text",
    [
        *("", "nonsense", "a" * 64, "a" * 63 + "  x", "A" * 64 + "  x"),
        *("a" * 64 + "  ../x", "a" * 64 + "  /etc/passwd"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "sums").write_text(text)
    with pytest.raises(BadWeights):
        read_manifest(tmp_path / "sums")
    with pytest.raises(BadWeights, match="cannot be read"):
        read_manifest(tmp_path / "missing")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "b.pth", "x.PKL", "y.ckpt"])
def test_formats_that_can_hold_code_are_refused(folder: Path, name: str) -> None:
    check_formats(folder)
    (folder / name).write_bytes(b"\x80\x05.")
    with pytest.raises(BadWeights, match="only safetensors"):
        prepare(model(folder))


def test_code_that_comes_with_weights_is_refused(folder: Path) -> None:
    settings = {"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(BadWeights, match="auto_map"):
        prepare(model(folder))


def test_a_folder_without_safetensors_is_refused(folder: Path) -> None:
    for each in folder.glob("*.safetensors"):
        each.unlink()
    with pytest.raises(BadWeights, match=r"holds no \.safetensors"):
        prepare(model(folder))


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"trust_remote_code": True}, "engine_args.trust_remote_code"),
        ({"--trust-remote-code": True}, "engine_args.--trust-remote-code"),
        ({"code_revision": "main"}, "engine_args.code_revision"),
        ({"load_format": "pt"}, "engine_args.load_format"),
        ({"load_format": "auto"}, "engine_args.load_format"),
        ({"enable_prompt_embeds": True}, "engine_args.enable_prompt_embeds"),
        ({"allowed_local_media_path": "/"}, "engine_args.allowed_local_media_path"),
    ],
)
def test_no_setting_makes_engines_run_code_of_others(
    tmp_path: Path, arguments: dict[str, object], path: str
) -> None:
    pools = [{"name": "main", "engine_args": arguments}]
    (tmp_path / "t.yaml").write_text(json.dumps({"models": [{"source": "tiny", "pools": pools}]}))
    with pytest.raises(ConfigError, match=path):
        load(tmp_path / "t.yaml", {})
    for each in SAFE_LOAD_FORMATS:
        PoolConfig.model_validate({"name": "main", "engine_args": {"load_format": each}})


def test_a_manifest_of_a_repository_needs_its_revision(tmp_path: Path) -> None:
    tree = {"models": [{"source": "openai/gpt-oss-20b", "name": "m", "manifest": "/sums"}]}
    (tmp_path / "t.yaml").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"models\[0\]\.revision"):
        load(tmp_path / "t.yaml", {})
    tree["models"][0]["revision"] = "a" * 40
    (tmp_path / "t.yaml").write_text(json.dumps(tree))
    assert load(tmp_path / "t.yaml", {}).models[0].manifest == "/sums"
