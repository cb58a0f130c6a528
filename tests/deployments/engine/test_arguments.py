"""What engines get for arguments."""

from cluster.config import ModelConfig, PoolConfig, TriremeConfig
from deployments.engine.arguments import RESUME_ARGS, engine_args


def arguments_of(**set_by_user: object) -> dict[str, object]:
    pool = PoolConfig.model_validate({"name": "main", "engine_args": set_by_user})
    config = TriremeConfig.model_validate({"models": [{"source": "tiny", "name": "t"}]})
    model: ModelConfig = config.models[0]
    return engine_args(model, pool)


def test_engines_go_on_with_the_answers_of_others() -> None:
    assert RESUME_ARGS.items() <= arguments_of().items()
    assert RESUME_ARGS.items() <= arguments_of(dtype="float32").items()


def test_a_users_scheduler_or_workers_are_left_alone() -> None:
    for name in RESUME_ARGS:
        found = arguments_of(**{name: "mine.Own"})
        assert {key: found[key] for key in RESUME_ARGS if key in found} == {name: "mine.Own"}
