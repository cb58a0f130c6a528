import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.facts import TENSOR_PARALLEL_SIZES
from cluster.steptime import (
    TABLED_SEQS,
    StepModel,
    kv_token_s,
    measured,
    step_model,
    touched_experts,
)

MODELS = [model for key in measured() if (model := step_model(*key)) is not None]


def test_a_token_reads_4_of_128_experts_and_many_tokens_read_them_all() -> None:
    assert touched_experts(0) == 0.0
    assert touched_experts(1) == pytest.approx(4 / 128)
    assert touched_experts(2) == pytest.approx(1 - (31 / 32) ** 2)
    assert touched_experts(TABLED_SEQS) == pytest.approx(1.0, abs=1e-13)
    assert touched_experts(10 * TABLED_SEQS) == 1.0


@given(
    st.sampled_from(MODELS),
    st.integers(1, 3 * TABLED_SEQS),
    st.integers(0, 10**7),
    st.integers(0, 16_384),
)
def test_more_of_anything_never_makes_a_step_shorter(
    steps: StepModel, seqs: int, kv_tokens: int, prefill: int
) -> None:
    base_s = steps.step_s(seqs, kv_tokens, prefill)
    assert 0.0 < base_s <= steps.step_s(seqs + 1, kv_tokens, prefill)
    assert base_s <= steps.step_s(seqs, kv_tokens + 1, prefill)
    assert base_s <= steps.step_s(seqs, kv_tokens, prefill + 1)
    if prefill:
        assert base_s <= steps.step_s(seqs, kv_tokens, prefill, 1e6)


@given(st.sampled_from(MODELS), st.integers(1, 2 * TABLED_SEQS), st.integers(0, 10**7))
def test_the_table_says_what_the_formula_says(steps: StepModel, seqs: int, kv_tokens: int) -> None:
    formula = (
        steps.base_s
        + steps.experts_s * (1 - (31 / 32) ** seqs)
        + steps.seq_s * seqs
        + steps.kv_token_s * kv_tokens
    )
    assert steps.step_s(seqs, kv_tokens) == pytest.approx(formula, rel=1e-12)


@pytest.mark.parametrize(("gpu", "tp"), measured())
def test_a_token_of_context_is_36_kib_over_the_group(gpu: str, tp: int) -> None:
    steps = step_model(gpu, tp)
    assert steps is not None
    assert steps.kv_token_s == kv_token_s(gpu, tp) == pytest.approx(kv_token_s(gpu, 1) / tp)
    assert steps.overhead_s > 0


def test_more_gpus_decode_faster_and_a_larger_gpu_too() -> None:
    for gpu in ("H100", "H200"):
        sizes = [step_model(gpu, tp) for tp in TENSOR_PARALLEL_SIZES]
        steps = [model.step_s(32, 32 * 2000) for model in sizes if model is not None]
        assert steps == sorted(steps, reverse=True)
    h100, h200 = step_model("H100", 2), step_model("H200", 2)
    assert h100 is not None
    assert h200 is not None
    assert h200.step_s(32, 64_000) < h100.step_s(32, 64_000)


def test_gpus_are_known_by_rays_type_and_by_the_drivers_name() -> None:
    assert step_model("NVIDIA H100 80GB HBM3", 4) is step_model("H100", 4) is not None
    assert step_model("h200", 1) is step_model("H200", 1) is not None
    assert step_model("H100", 1) is None
    assert step_model("L4", 1) is None
    assert step_model("H200", 3) is None
