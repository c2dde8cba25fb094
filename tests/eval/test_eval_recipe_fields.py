"""The role of each recipe field is defined in one table."""

from eval.recipe_fields import (
    CHANGEABLE_ON_RESUME,
    METHOD_FIELDS,
    NON_PROTOCOL_FIELDS,
    RULES,
    flatten_fields,
    get_field,
    is_within,
)


def test_the_roles_of_fields() -> None:
    """A change here changes which runs are compared, and which can be resumed."""
    assert set(CHANGEABLE_ON_RESUME) == {
        "data.root",
        "features",
        "states",
        "training.workers",
        "training.checkpoint_every_steps",
        "training.tensorboard",
        "training.trackers",
    }
    assert set(METHOD_FIELDS) == {
        "method",
        "optimizer",
        "backbone.precision",
        "backbone.vocabulary",
        "visual.embedding",
        "visual.image_order_std",
        "data.prompt_prefix",
        "data.prompt_suffix",
        "data.max_prompt_tokens",
    }
    assert set(NON_PROTOCOL_FIELDS) - set(METHOD_FIELDS) == {
        "training.seed",
        "backbone.name",
        "features",
        "states",
        "training.checkpoint_every_steps",
        "training.device",
        "training.evaluation_batch_size",
        "training.log_every_steps",
        "training.tensorboard",
        "training.trackers",
        "training.workers",
    }
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_a_section_contains_its_fields_and_no_others() -> None:
    assert is_within("optimizer.lr", ("optimizer",))
    assert is_within("optimizer", ("optimizer",))
    assert not is_within("optimizers.lr", ("optimizer",))


def test_nested_fields_become_paths() -> None:
    fields = {"a": {"b": {"c": 1}, "d": {}}, "e": [2]}
    assert flatten_fields(fields) == {"a.b.c": 1, "a.d": {}, "e": [2]}
    assert get_field(fields, ("a", "b", "c")) == 1
    assert get_field(fields, ("a", "b", "c", "d")) is None
    assert get_field(fields, ("x",)) is None
