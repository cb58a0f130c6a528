import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.facts import (
    GIB,
    GPT_OSS_20B,
    GPT_OSS_120B,
    TENSOR_PARALLEL_SIZES,
    TINY,
    choose_model,
    facts_for,
    gpu_bytes_of,
    kv_bytes_per_request,
    kv_bytes_per_token,
    kv_pool_bytes,
    sizing_for,
    tensor_parallel_size_for,
    weights_fit,
)


def gpu(name: str) -> int:
    found = gpu_bytes_of(name)
    assert found is not None
    return found


def test_a_token_of_gpt_oss_120b_costs_36_kib_in_bf16_and_half_in_fp8() -> None:
    assert kv_bytes_per_token(GPT_OSS_120B) == 36 * 1024
    assert kv_bytes_per_token(GPT_OSS_120B, dtype_bytes=1) == 18 * 1024
    assert kv_bytes_per_token(GPT_OSS_120B, tp=8) == 36 * 1024 // 8


def test_a_head_is_never_split_between_gpus() -> None:
    assert kv_bytes_per_token(TINY, tp=2) == kv_bytes_per_token(TINY, tp=8)


# GiB that vLLM's own block arithmetic gives for gpt-oss-120b in bf16 at TP 1; in-flight tokens are
# twice the tokens of a step.
@pytest.mark.parametrize(
    ("in_flight", "tokens", "gib"),
    [
        *((2048, 8192, 0.36), (2048, 32_768, 1.20), (2048, 131_072, 4.58)),
        *((16_384, 8192, 0.56), (16_384, 32_768, 1.69), (16_384, 131_072, 5.07)),
        *((32_768, 32_768, 2.25), (32_768, 131_072, 5.63)),
    ],
)
def test_a_request_holds_what_vllms_block_arithmetic_says(
    in_flight: int, tokens: int, gib: float
) -> None:
    held = kv_bytes_per_request(GPT_OSS_120B, tokens, in_flight // 2)
    assert held / GIB == pytest.approx(gib, abs=0.006)


@pytest.mark.parametrize(
    ("name", "gpus", "model", "size"),
    [
        ("H200", 1, "gpt-oss-120b", 1),
        ("B200", 8, "gpt-oss-120b", 1),
        ("H100", 1, "gpt-oss-120b", 1),
        ("NVIDIA A100-SXM4-80GB", 8, "gpt-oss-120b", 1),
        ("A100-40G", 8, "gpt-oss-120b", 4),
        ("A100-40G", 2, "gpt-oss-20b", 1),
        ("L4", 8, "gpt-oss-120b", 8),
        ("L4", 1, "gpt-oss-20b", 1),
    ],
)
def test_the_largest_model_that_fits_is_chosen_with_the_smallest_group(
    name: str, gpus: int, model: str, size: int
) -> None:
    facts = choose_model(gpu(name), gpus)
    assert facts is not None
    assert (facts.name, tensor_parallel_size_for(facts, gpu(name), gpus)) == (model, size)


def test_no_model_is_chosen_where_none_fits() -> None:
    assert choose_model(8 * GIB, 1) is None
    assert choose_model(gpu("H200"), 0) is None


def test_one_80_gb_gpu_gets_the_tight_settings_and_larger_ones_the_roomy() -> None:
    tight, roomy = (sizing_for(GPT_OSS_120B, gpu(name), 1) for name in ("H100", "H200"))
    assert tight is not None
    assert roomy is not None
    assert (tight.max_num_batched_tokens, tight.gpu_memory_utilization) == (1024, 0.95)
    assert (roomy.max_num_batched_tokens, roomy.gpu_memory_utilization) == (8192, 0.9)


def test_the_pool_left_on_an_h200_is_near_the_independent_estimate() -> None:
    assert kv_pool_bytes(GPT_OSS_120B, gpu("H200"), 1, 0.9, 8192) / GIB == pytest.approx(56, abs=1)


@given(
    st.sampled_from([GPT_OSS_120B, GPT_OSS_20B, TINY]),
    st.integers(min_value=1, max_value=300),
    st.integers(min_value=0, max_value=16),
)
def test_what_is_proposed_fits_and_nothing_smaller_would(facts, gib, gpus) -> None:  # type: ignore[no-untyped-def]
    sizing = sizing_for(facts, gib * GIB, gpus)
    if sizing is None:
        return
    assert sizing.tensor_parallel_size <= gpus
    assert sizing.max_num_seqs <= sizing.max_num_batched_tokens
    assert weights_fit(
        facts,
        gib * GIB,
        sizing.tensor_parallel_size,
        gpu_memory_utilization=sizing.gpu_memory_utilization,
        max_num_batched_tokens=sizing.max_num_batched_tokens,
    )
    smaller = [size for size in TENSOR_PARALLEL_SIZES if size < sizing.tensor_parallel_size]
    assert all(
        not weights_fit(
            facts, gib * GIB, size, gpu_memory_utilization=0.95, max_num_batched_tokens=1024
        )
        for size in smaller
    )


@given(st.integers(min_value=1, max_value=300), st.integers(min_value=1, max_value=8))
def test_more_memory_never_makes_the_group_larger(gib: int, gpus: int) -> None:
    size = tensor_parallel_size_for(GPT_OSS_120B, gib * GIB, gpus)
    more = tensor_parallel_size_for(GPT_OSS_120B, (gib + 1) * GIB, gpus)
    assert size is None or (more is not None and more <= size)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("/models/gpt-oss-20b/", "gpt-oss-20b"),
        ("tiny", "tiny"),
        ("unsloth/gpt-oss-120b-BF16", None),
        ("/models/tiny", None),
    ],
)
def test_only_checkpoints_whose_weights_are_known_have_facts(source: str, name: str | None) -> None:
    facts = facts_for(source)
    assert (facts.name if facts else None) == name


def test_gpus_are_known_by_rays_type_and_by_the_drivers_name() -> None:
    assert gpu("H100") == gpu("NVIDIA H100 80GB HBM3")
    assert gpu("A100-80G") == gpu("NVIDIA A100 80GB PCIe") > gpu("A100")
    assert gpu("NVIDIA GB200") != gpu("NVIDIA B200")
    assert gpu("NVIDIA L40S") > gpu("NVIDIA L4")
    assert gpu_bytes_of("Voodoo2") is None
