from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from cluster.config import (
    OWNED_ENGINE_ARGS,
    TIERS,
    GatewayConfig,
    ModelConfig,
    PoolConfig,
    TiersConfig,
    TriremeConfig,
    is_loopback,
    json_schema,
)


def settings_classes() -> list[type[BaseModel]]:
    base = TriremeConfig.__mro__[1]
    return list(base.__subclasses__())


def test_the_empty_configuration_is_complete() -> None:
    config = TriremeConfig()
    assert config.models[0].name == "gpt-oss-120b"
    assert config.gateway.host == "127.0.0.1"
    assert config.tiers.default == "medium"


@pytest.mark.parametrize("cls", settings_classes(), ids=lambda cls: cls.__name__)
def test_every_setting_is_described_and_has_a_default(cls: type[BaseModel]) -> None:
    assert cls.model_fields
    for name, field in cls.model_fields.items():
        assert field.description, f"{cls.__name__}.{name}"
        assert not field.is_required(), f"{cls.__name__}.{name}"


def test_settings_cannot_be_changed_nor_invented() -> None:
    with pytest.raises(ValidationError):
        TriremeConfig().gateway.port = 1
    with pytest.raises(ValidationError):
        GatewayConfig.model_validate({"prt": 1})


def test_a_tier_given_in_part_keeps_its_own_defaults() -> None:
    tiers = TiersConfig.model_validate({"high": {"max_queued": 3}})
    assert tiers.high.max_queued == 3
    assert tiers.high.prior_output_tokens_mean == 13000.0
    assert tiers.high.priority > tiers.medium.priority > tiers.low.priority


def test_objectives_given_in_part_keep_the_rest_of_their_tier() -> None:
    tiers = TiersConfig.model_validate({"high": {"slo": {"ttft_s": 9}}})
    assert (tiers.high.slo.ttft_s, tiers.high.slo.tpot_ms) == (9, 80)
    assert tiers.low.slo.ttft_s == 1


def test_each_tier_is_found_by_its_name() -> None:
    tiers = TiersConfig()
    assert [tiers.of(tier) for tier in TIERS] == [tiers.low, tiers.medium, tiers.high]


@pytest.mark.parametrize("size", [0, 3, 5, 16])
def test_a_group_that_splits_a_kv_head_is_refused_with_the_sizes_that_do_not(size: int) -> None:
    with pytest.raises(ValidationError, match="8 KV heads of gpt-oss; write one of 1, 2, 4, 8"):
        PoolConfig.model_validate({"tensor_parallel_size": size})


@pytest.mark.parametrize("argument", sorted(OWNED_ENGINE_ARGS))
def test_an_engine_argument_that_trireme_sets_is_refused_under_each_spelling(argument: str) -> None:
    for spelling in (argument, argument.replace("_", "-"), f"--{argument.replace('_', '-')}"):
        with pytest.raises(ValidationError, match="Trireme sets this argument"):
            PoolConfig.model_validate({"engine_args": {spelling: 1}})


def test_further_engine_arguments_pass_through_unchanged() -> None:
    args = {"kv_cache_dtype": "fp8", "speculative_config": {"num_speculative_tokens": 3}}
    assert PoolConfig(engine_args=args).engine_args == args


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.com", False)),
    ],
)
def test_only_a_loopback_address_needs_no_consent(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    if loopback:
        assert TriremeConfig.model_validate({"gateway": {"host": host}}).gateway.host == host
        return
    assert "set access.mode to keys" in refused({"gateway": {"host": host}})
    for consent in (
        {"gateway": {"host": host}, "access": {"mode": "keys"}},
        {"gateway": {"host": host, "insecure_listen_without_auth": True}},
    ):
        assert TriremeConfig.model_validate(consent).gateway.host == host


@pytest.mark.parametrize("date", ["2026-13-01", "2026-02-30", "20260101", "today", "2026-1-1"])
def test_a_start_date_must_exist(date: str) -> None:
    with pytest.raises(ValidationError, match="YYYY-MM-DD"):
        GatewayConfig(system_start_date=date)


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        TriremeConfig.model_validate(data)
    return str(caught.value)


def test_every_tier_must_find_a_pool() -> None:
    pool = {"tiers": ["low"], "lends_to": ["medium"]}
    assert "no pool takes requests of tier high" in refused({"models": [{"pools": [pool]}]})
    pools = [{**pool, "name": "a"}, {"name": "b", "tiers": [], "lends_to": ["high"]}]
    assert TriremeConfig.model_validate({"models": [{"pools": pools}]})


def test_pool_names_are_unique_over_all_models() -> None:
    models = [{"name": "a"}, {"name": "b"}]
    assert "models[1].pools[0].name: 'main' is also the name of models[0].pools[0]" in refused(
        {"models": models}
    )


@pytest.mark.parametrize(
    ("second", "path"),
    [
        ({"name": "a"}, "models[1].name"),
        ({"name": "b", "aliases": ["a"]}, "models[1].aliases[0]"),
        ({"name": "a-high"}, "models[1].name"),
        ({"name": "b", "aliases": ["a2-low"]}, "models[1].aliases[0]"),
    ],
)
def test_a_name_means_one_model_at_most(second: dict[str, Any], path: str) -> None:
    models = [
        {"name": "a", "aliases": ["a2"], "pools": [{"name": "p"}]},
        {**second, "pools": [{"name": "q"}]},
    ]
    assert path in refused({"models": models})


def test_tier_aliases_name_the_model_and_the_tier() -> None:
    aliases = ModelConfig(name="gpt-oss-120b", aliases=["oss"]).tier_aliases()
    assert aliases["gpt-oss-120b-high"] == "high"
    assert aliases["oss-low"] == "low"
    assert len(aliases) == 6


def test_settings_that_a_running_cluster_decides_are_refused() -> None:
    text = refused({"ray": {"address": "auto", "num_cpus": 4, "num_gpus": 8}})
    assert "remove num_cpus" in text
    assert "remove num_gpus" in text


def test_the_tiny_model_takes_no_larger_group_than_it_has_kv_heads() -> None:
    pool = {"tensor_parallel_size": 4}
    text = refused({"models": [{"source": "tiny", "pools": [pool]}]})
    assert "2 KV heads of tiny; write 1 or 2" in text
    assert TriremeConfig.model_validate(
        {"models": [{"source": "tiny", "pools": [{"tensor_parallel_size": 2}]}]}
    )


def test_the_schema_describes_every_section() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(TriremeConfig.model_fields)
    pool = schema["$defs"]["PoolConfig"]["properties"]
    assert pool["tensor_parallel_size"]["enum"] == [1, 2, 4, 8]


JWT = {"issuer": "https://i/", "audience": "a", "jwks_url": "https://i/jwks"}


@pytest.mark.parametrize(
    ("access", "words"),
    [
        ({"mode": "none", "jwt": JWT}, "set access.mode to keys, or remove jwt"),
        ({"mode": "none", "admin": {}}, "set access.mode to keys, or remove admin"),
        ({"mode": "keys", "jwt": {**JWT, "issuer": ""}}, "set issuer"),
        ({"mode": "keys", "jwt": {**JWT, "audience": []}}, "set audience"),
        ({"mode": "keys", "jwt": {}}, "set jwks_url"),
        ({"mode": "keys", "jwt": {**JWT, "jwks_url": "http://i/jwks"}}, "write https://"),
        ({"mode": "keys", "jwt": {**JWT, "algorithms": ["HS256"]}}, "RS256"),
        ({"mode": "keys", "jwt": {**JWT, "algorithms": ["none"]}}, "RS256"),
        ({"mode": "keys", "store_url": "mysql://h/db"}, "no URL of PostgreSQL or SQLite"),
        ({"mode": "keys", "refresh_s": 5}, "less than or equal to 1"),
        ({"mode": "open"}, "'none' or 'keys'"),
    ],
)
def test_access_that_would_not_be_what_it_seems_is_refused(
    access: dict[str, Any], words: str
) -> None:
    assert words in refused({"access": access})


def test_a_provider_on_this_machine_may_speak_http() -> None:
    jwt = {**JWT, "jwks_url": "http://127.0.0.1:8080/jwks", "audience": ["a", "b"]}
    config = TriremeConfig.model_validate({"access": {"mode": "keys", "jwt": jwt}})
    assert config.access.jwt is not None
    assert config.access.jwt.audience == ["a", "b"]
