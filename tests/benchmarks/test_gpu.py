"""The GPU benchmark without a GPU: its fit, its stages, and (if asked for) a run on the CPU."""

import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import fit, run
from benchmarks.gpu.models import make_model
from benchmarks.gpu.plugin import install, register, use_all_experts
from benchmarks.gpu.servers import bare_flags, model_and_pool, product_config
from benchmarks.gpu.setups import SHAPES, Setup, setup_for
from benchmarks.gpu.stages import (
    LIMIT_S,
    LOADED_S,
    BadResults,
    Store,
    expected_steps,
    stages,
)
from benchmarks.stepfit import FITTED, Point, closed_loop, fitted
from cluster.config import TriremeConfig
from cluster.facts import GIB, GPT_OSS_20B, GPT_OSS_120B
from cluster.hardware import Gpu, Hardware
from deployments.engine.arguments import RESUME_ARGS
from deployments.engine.model import EngineLimits

NO_GPU = Hardware(2, 8 * GIB)
H200 = Hardware(16, 128 * GIB, (Gpu("NVIDIA H200", 143_771 << 20),))
L40S = Hardware(16, 64 * GIB, (Gpu("NVIDIA L40S", 46_068 << 20),))

RUN_IT = os.environ.get("TRIREME_TEST_GPU_BENCHMARK") == "1"


def synthetic(setup: Setup, folder: Path) -> None:
    """Results of bare vLLM, had its steps taken what ``cluster/steptime.py`` says of an H200."""
    steps = expected_steps(setup)
    limits = EngineLimits(
        setup.max_num_seqs, setup.max_num_batched_tokens, 1_000_000, prefix_caching=False
    )
    store = Store(folder, setup.name)
    for isl, osl in ((1024, 256), (256, 1024), (2048, 128)):
        points = []
        for concurrency in (1, 4, 16, 64):
            point = Point("H200", 1, isl, osl, concurrency, 0.0, 0.0, "", "fit", 2)
            loop = closed_loop(steps, point, limits=limits)
            points.append(
                {
                    "isl": isl, "osl": osl, "concurrency": concurrency, "requests_a_client": 2,
                    "errors": 0, "kv_use_max": 0.5,
                    "ttft_ms": {"mean": 1e3 * loop.ttft_s}, "tpot_ms": {"mean": 1e3 * loop.tpot_s},
                }
            )  # fmt: skip
        # What the fit has to leave out.
        points.append({**points[-1], "concurrency": 128, "kv_use_max": 1.0})
        points.append({**points[-2], "concurrency": 256, "errors": 3})
        machine = {"gpu": "NVIDIA H200", "versions": {"vllm": "0.33.0"}, "date": "2026-01-01"}
        settings = {
            "max_num_seqs": setup.max_num_seqs,
            "max_num_batched_tokens": setup.max_num_batched_tokens,
        }
        store.write(
            f"bare-{isl}-{osl}",
            {"finished": True, "kind": "closed", "side": "bare", "machine": machine,
             "settings": settings, "points": points},
        )  # fmt: skip


def test_a_fit_to_synthetic_results_finds_the_coefficients_that_made_them(tmp_path: Path) -> None:
    setup = setup_for("auto", H200)
    assert setup.facts is GPT_OSS_120B
    synthetic(setup, tmp_path)
    results = fit.read(tmp_path, setup.name)
    assert (len(results.points), results.left_out) == (12, 6)
    fit.fit_all(tmp_path, setup.name, tmp_path / "figures")
    told = json.loads((tmp_path / f"coefficients.{setup.name}.json").read_text())
    made = fitted(expected_steps(setup))
    wanted = {name: value * fit.UNITS[name] for name, value in zip(FITTED, made, strict=True)}
    assert told["coefficients"] == pytest.approx(wanted, rel=1e-3)
    assert told["errors"]["TPOT p95 error"] < 1e-4
    assert told["errors"]["TTFT p95 error"] < 1e-4
    assert told["line"].startswith('("H200", 1): (')
    assert told["machine"]["versions"] == {"vllm": "0.33.0"}
    assert (tmp_path / f"points.{setup.name}.csv").read_text().count("\n") == 13


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds results of nothing"),
        ({"m.bare-a.json": "{"}, "is no JSON"),
        ({"m.bare-a.json": '{"stage": "other"}'}, "is no result of stage bare-a"),
        ({"m.bare-a.json": '{"stage": "bare-a"}'}, "a field is missing: 'kind'"),
    ],
)
def test_results_that_cannot_be_fitted_are_told_in_one_line(
    files: dict[str, str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "argv", ["fit", str(tmp_path)])
    assert fit.main() == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_points_that_do_not_tell_coefficients_apart_are_refused(tmp_path: Path) -> None:
    setup = setup_for("auto", H200)
    synthetic(setup, tmp_path)
    store = Store(tmp_path, setup.name)
    for result in store.all():
        store.write(result["stage"], {**result, "points": result["points"][:1]})
    store.path("bare-256-1024").unlink()
    store.path("bare-2048-128").unlink()
    with pytest.raises(ValueError, match="tell the step model's coefficients apart"):
        fit.fit_all(tmp_path, setup.name, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "gpt-5"], "there is no model gpt-5"),
        (["--model", "gpt-oss-120b"], "needs a GPU, and this machine has none"),
        (["--only", "nothing"], "no stage is called nothing"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "detect", lambda environ: NO_GPU)
    monkeypatch.setattr(sys, "argv", ["run", "--results", str(tmp_path), *arguments])
    assert run.main() == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("hardware", [NO_GPU, H200, L40S])
def test_every_stage_is_expected_to_end_within_its_limit(hardware: Hardware, quick: bool) -> None:
    setup = setup_for("auto", hardware)
    found = stages(setup, quick=quick)
    assert len({each.name for each in found}) == len(found)
    for stage in found:
        assert sum(point.expected_s for point in stage.points) <= LOADED_S < LIMIT_S
    shapes = {(each.side, each.shape) for each in found if each.kind == "closed"}
    assert len(shapes) == 2 * (1 if quick else len(setup.shapes))


def test_both_sides_have_every_shape_at_every_concurrency() -> None:
    setup = setup_for("auto", H200)
    for side in ("bare", "trireme"):
        asked = {
            (stage.shape, point.concurrency)
            for stage in stages(setup, quick=False)
            if stage.side == side
            for point in stage.points
        }
        assert asked == {(shape, many) for shape in SHAPES for many in (1, 4, 16, 64, 256)}


def test_finished_stages_are_not_run_again_and_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, store = setup_for("tiny", NO_GPU), Store(tmp_path, "gpt-oss-tiny")
    every = stages(setup, quick=True)
    done, half, *_ = every
    store.write(done.name, {"finished": True})
    store.write(half.name, {"finished": False, "points": [{"concurrency": 1}]})
    ran: list[str] = []

    def note(setup: Setup, stage: Any, *rest: Any) -> str:
        ran.append(stage.name)
        return "" if stage is half else "failed"

    monkeypatch.setattr(run, "run_stage", note)
    assert run.run_all(setup, every, store, True, NO_GPU) == len(every) - 2
    assert ran == [each.name for each in every[1:]]
    assert store.read(half.name)["points"] == [{"concurrency": 1}]


def test_a_file_of_results_that_was_cut_is_not_taken_for_none(tmp_path: Path) -> None:
    store = Store(tmp_path, "m")
    assert store.read("steps") == {}
    store.path("steps").write_text('{"stage": "ste')
    with pytest.raises(BadResults):
        store.finished("steps")


def test_both_sides_have_the_same_engine_settings() -> None:
    setup = setup_for("auto", H200)
    flags = bare_flags(setup, Path("/models/gpt-oss-120b"))
    _, pool = model_and_pool(setup, Path("/models/gpt-oss-120b"))
    given = dict(itertools.pairwise(flags))
    assert given["--max-num-seqs"] == str(pool.max_num_seqs) == "256"
    assert given["--max-num-batched-tokens"] == str(pool.max_num_batched_tokens) == "8192"
    assert given["--load-format"] == "dummy"
    assert not any(value in flags for value in RESUME_ARGS.values())


@pytest.mark.parametrize("wide", [False, True])
def test_the_product_takes_the_configuration(wide: bool) -> None:
    config = product_config(setup_for("auto", L40S), Path("/models/m"), L40S, wide=wide)
    tiers = TriremeConfig.model_validate(config).tiers
    assert (tiers.low.slo.ttft_s > 1000) == wide


def test_a_model_of_full_size_is_a_folder_that_vllm_knows(request: pytest.FixtureRequest) -> None:
    from transformers import AutoConfig

    setup = setup_for("gpt-oss-20b", H200)
    cache = request.config.cache
    assert cache is not None
    # Where other tests have made the tokenizer already, which takes eight seconds.
    folder = make_model(setup, cache.mkdir("trireme_home"))
    config = AutoConfig.from_pretrained(folder)
    assert (config.num_hidden_layers, config.num_local_experts) == (GPT_OSS_20B.layers, 32)
    assert config.layer_types.count("full_attention") == GPT_OSS_20B.full_attention_layers
    assert config.quantization_config["quant_method"] == "mxfp4"
    assert (folder / "tokenizer.json").stat().st_size > 10_000_000


def test_random_weights_are_mended_so_that_routers_choose_by_their_input() -> None:
    import torch

    block = torch.nn.ModuleDict(
        {name: torch.nn.Linear(4, 4) for name in ("router", "o_proj", "input_layernorm")}
    )
    before = block["o_proj"].weight.clone()
    use_all_experts(block)
    assert not block["router"].bias.any()
    assert block["router"].weight.any()
    assert bool((block["input_layernorm"].weight == 1).all())
    assert torch.equal(block["o_proj"].weight, before)


def test_the_plugin_is_found_where_it_is_installed(tmp_path: Path) -> None:
    paths = install(tmp_path)["PYTHONPATH"].split(os.pathsep)
    (entry,) = [
        entry
        for each in importlib.metadata.distributions(path=paths[:1])
        for entry in each.entry_points
    ]
    assert (entry.group, entry.load()) == ("vllm.general_plugins", register)


@pytest.mark.engine
@pytest.mark.cluster
@pytest.mark.timeout(900)
@pytest.mark.skipif(not RUN_IT, reason="five engines' starts: TRIREME_TEST_GPU_BENCHMARK=1 runs it")
def test_a_quick_run_on_the_cpu_measures_both_sides(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    figures = tmp_path / "figures.json"
    program = root / "benchmarks" / "gpu" / "run.sh"
    options = ["--quick", "--model", "tiny", "--results", str(tmp_path), "--json", str(figures)]
    done = subprocess.run(
        [str(program), *options],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    for concurrency in (1, 16):
        assert 0.1 < found[f"128/128 at {concurrency}/throughput ratio"] < 2.0
    assert found["exact/greedy/wrong"] == found["exact/seeded/wrong"] == 0
    assert found["exact/greedy/cuts"] > 50
