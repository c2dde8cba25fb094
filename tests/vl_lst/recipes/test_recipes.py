"""Reading and validating recipes, and error messages."""

from pathlib import Path

import pytest
from resolved_recipes import refusal, resolve, resolve_text

from eval.errors import InputError
from tasks import get_task
from vl_lst.data.order import Portion, Schedule
from vl_lst.errors import RecipeError
from vl_lst.methods import get_method
from vl_lst.recipes import (
    bundled_recipes,
    default_recipe,
    dump_recipe,
    load_recipe,
    parse_override,
    read_recipe_file,
)

# New methods may use the ladder's recipe.
METHODS_WITH_RECIPES = (
    "adapter", "bitfit", "dora", "full", "ia3", "lora", "lst", "probe", "prompt", "qlora", "qst",
    "sherl", "side", "unipt", "vera", "vl-pet", "xladder",
)  # fmt: skip
PACKAGE = Path(__file__).resolve().parents[3] / "vl_lst"


OF_GLUE = [name for name in bundled_recipes() if name.startswith("glue-")]


@pytest.mark.parametrize("name", sorted({*bundled_recipes()} - {*OF_GLUE}))
def test_every_bundled_recipe_is_valid(name: str) -> None:
    method = name.removeprefix("demo").removeprefix("-").removesuffix("-paper") or "lst"
    assert resolve(name).method.name == method


@pytest.mark.parametrize("name", OF_GLUE)
def test_every_bundled_recipe_of_glue_is_valid(name: str) -> None:
    recipe = resolve_text(name)
    assert recipe.method.name == name.split("-")[1]
    assert not recipe.features


@pytest.mark.parametrize("name", METHODS_WITH_RECIPES)
def test_every_method_has_a_recipe_for_both_kinds_of_backbone(name: str) -> None:
    assert default_recipe(name, "t5-base") == name
    assert default_recipe(name, "demo") == ("demo" if name == "lst" else f"demo-{name}")


def test_a_method_without_a_recipe_gets_that_of_the_ladder() -> None:
    assert default_recipe("toy", "t5-base") == default_recipe(None, None) == "lst"
    assert default_recipe("toy", "demo") == default_recipe(None, "demo") == "demo"


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("full", 1e-4),
        ("adapter", 3e-4),
        ("lora", 3e-4),
        ("vl-pet", 3e-4),
        ("bitfit", 3e-3),
        ("prompt", 3e-3),
    ],
)
def test_other_methods_have_the_settings_of_the_paper(name: str, rate: float) -> None:
    """They are the method's defaults, and all but two equal those of the ladder."""
    recipe, ladder = resolve(name), resolve("lst")
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay) == (rate, 1e-2)
    assert recipe.training == ladder.training
    assert recipe.method.options == get_method(name).options().model_dump(mode="json")


def test_changing_the_method_drops_the_other_method_s_options() -> None:
    recipe = resolve("lst", "method.name=lora", "method.options.rank=3")
    assert (recipe.method.name, recipe.method.options["rank"]) == ("lora", 3)
    assert resolve("lst", "method.options.rank=3", "method.name=lora") == recipe
    assert resolve("lst", "method.name=lst").method == resolve("lst").method


def test_a_bundled_backbone_is_found_beside_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("lst", "backbone.name=demo").backbone.name == "demo"
    assert resolve("lst", "backbone.name=mine").backbone.name == str(tmp_path / "mine")


def test_a_recipe_that_extends_another_contains_only_differences(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: lora\noptimizer: {lr: 5e-5}\n")
    recipe, base = resolve(path), resolve("lora")
    assert recipe.optimizer == base.optimizer.model_copy(update={"lr": 5e-5})
    assert (recipe.method, recipe.training) == (base.method, base.training)
    path.write_text("extends: mine\n")
    with pytest.raises(RecipeError, match="extends: found 'mine'; expected another"):
        read_recipe_file(path)


def test_steps_or_epochs_given_alone_replace_the_other(tmp_path: Path) -> None:
    training = resolve("lst", "training.steps=100").training
    assert (training.steps, training.epochs) == (100, None)
    training = resolve("demo", "training.epochs=3").training
    assert (training.steps, training.epochs) == (None, 3)
    path = tmp_path / "mine.yaml"
    path.write_text("extends: lst\ntraining: {steps: 7}\n")
    assert (resolve(path).training.steps, resolve(path).training.epochs) == (7, None)
    training = resolve(path, "training.epochs=2").training
    assert (training.steps, training.epochs) == (None, 2)
    path.write_text("extends: lst\ntraining: {steps: 7, epochs: 2}\n")
    with pytest.raises(RecipeError, match="epochs is 2 and steps is 7"):
        resolve(path)


def test_warm_up_steps_or_share_given_alone_replaces_the_other(tmp_path: Path) -> None:
    optimizer = resolve("lst", "optimizer.warmup_steps=500").optimizer
    assert (optimizer.warmup_steps, optimizer.warmup_share) == (500, None)
    path = tmp_path / "mine.yaml"
    # A file that extends a recipe with a share, and one that sets no share at all.
    for text in (
        "extends: lst\noptimizer: {warmup_steps: 7}",
        "optimizer: {lr: 1, warmup_steps: 7}",
    ):
        path.write_text(f"{text}\nmethod: {{name: lst}}\ntraining: {{epochs: 1, batch_size: 8, "
                        "evaluation_batch_size: 8}\n")  # fmt: skip
        optimizer = resolve(path).optimizer
        assert (optimizer.warmup_steps, optimizer.warmup_share) == (7, None)
        optimizer = resolve(path, "optimizer.warmup_share=0.5").optimizer
        assert (optimizer.warmup_steps, optimizer.warmup_share) == (None, 0.5)
    path.write_text("extends: lst\noptimizer: {warmup_steps: 7, warmup_share: 0.1}\n")
    with pytest.raises(RecipeError, match="warmup_share is 0.1 and warmup_steps is 7; expected ex"):
        resolve(path)


def test_the_lst_recipe_has_the_settings_of_the_paper() -> None:
    recipe = resolve("lst")
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.clip_norm) == (3e-3, 3e-2, 5.0)
    assert (optimizer.betas, optimizer.eps, optimizer.warmup_share) == ((0.9, 0.999), 1e-6, 0.1)
    assert (recipe.training.epochs, recipe.training.batch_size) == (20, {"vqa": 300})
    assert (recipe.visual.pooled_grid, recipe.method.options["reduction"]) == (6, 4)
    assert (recipe.head, recipe.generation.beams) == ({"vqa": "generate"}, {"vqa": 1})


def test_the_recipe_of_the_papers_code_lacks_our_improvements() -> None:
    paper, ours = resolve("lst-paper"), resolve("lst", "training.precision=fp32")
    options, better = paper.method.options, ours.method.options
    assert (options["image_rungs"], better["image_rungs"]) == ("attenuate", "pass")
    assert (options["initialisation"], options["initialisation_samples"]) == ("fisher", 1024)
    assert (options["backbone_dropout"], better["backbone_dropout"]) == (0.1, 0.0)
    assert (paper.optimizer.decay, ours.optimizer.decay) == ("reference", "weights")
    assert (paper.visual.image_order_std, ours.visual.image_order_std) == (1.0, 0.02)
    differing = {name for name in options if options[name] != better[name]}
    assert differing == {
        "rungs", "image_rungs", "gate_start", "initialisation", "random_weights",
        "backbone_dropout",
    }  # fmt: skip
    gqa = ("task=gqa", "training.batch_size=8")
    assert resolve("lst-paper", *gqa).data.prompt_prefix == {"gqa": "gpa: "}
    assert resolve("lst", *gqa).data.prompt_prefix == {"gqa": "gqa: "}
    assert paper.training == ours.training
    assert paper.optimizer.model_copy(update={"decay": "weights"}) == ours.optimizer


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("glue-lst-paper", 3e-3),
        ("glue-full", 3e-4),
        ("glue-adapter", 3e-4),
        ("glue-lora", 3e-4),
        ("glue-bitfit", 3e-4),
        ("glue-prompt", 0.3),
        ("glue-sherl", 3e-3),
    ],
)
def test_the_recipes_of_glue_have_the_settings_of_the_paper(name: str, rate: float) -> None:
    recipe = resolve_text(name)
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.clip_norm) == (rate, 0.0, 1.0)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert (optimizer.warmup_steps, optimizer.warmup_share) == (500, None)
    assert recipe.training.batch_size == {"rte": 100}
    assert (recipe.backbone.name, recipe.backbone.precision) == ("t5-base", "fp32")
    assert recipe.backbone.vocabulary == "tokenizer"
    assert (recipe.head, recipe.generation.beams) == ({"rte": "generate"}, {"rte": 1})
    splits = (recipe.data.train_split, recipe.data.validation_split)
    assert splits == ({"rte": "paper_train"}, {"rte": "paper_validation"})
    # The adapters' prompts do not name the task.
    prefix = "" if name == "glue-adapter" else "rte "
    assert recipe.data.prompt_prefix == {"rte": prefix}


@pytest.mark.parametrize(
    ("task", "steps"),
    [
        # RTE ends with its warm-up.
        *(("rte", 500), ("mrpc", 740), ("stsb", 1_160), ("cola", 1_720), ("sst2", 6_640)),
        *(("qnli", 10_380), ("qqp", 36_290), ("mnli", 39_280)),
    ],
)
def test_the_recipes_of_glue_take_as_many_steps_as_the_paper_s_code(task: str, steps: int) -> None:
    examples = get_task(task).sizes["paper_train"].examples
    for name in OF_GLUE:
        training = resolve_text(name, f"task={task}").training
        portions = {task: Portion(examples, training.batch_size[task])}
        assert Schedule(portions=portions, epochs=training.epochs).total_steps == steps


def test_the_ladders_of_glue_keep_the_layers_of_the_paper() -> None:
    kept = {
        "glue-lst-paper": ("t5-base", [n for n in range(12) if n % 4]),
        "glue-lst-paper-large": ("t5-large", list(range(1, 24, 2))),
        "glue-lst-paper-3b": ("t5-3b", [23]),
    }
    base = resolve_text("glue-lst-paper")
    for name, (backbone, layers) in kept.items():
        recipe = resolve_text(name)
        options = dict(recipe.method.options)
        assert recipe.backbone.name == backbone
        assert options.pop("encoder_layers") == options.pop("decoder_layers") == layers
        assert options.items() <= base.method.options.items()
        assert (recipe.optimizer, recipe.training) == (base.optimizer, base.training)


def test_the_task_fills_in_splits_head_and_answer_length() -> None:
    recipe = resolve("lst", "head=null")
    assert recipe.data.train_split == {"vqa": "train2014"}
    assert recipe.data.validation_split == {"vqa": "val2014"}
    assert (recipe.head, recipe.generation.max_length) == ({"vqa": "classify"}, {"vqa": 10})


def test_a_resolved_recipe_survives_a_round_trip(tmp_path: Path) -> None:
    recipe = resolve("lst", "optimizer.lr=1e-5", "training.seed=7", "optimizer.clip_norm=null")
    dump_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_paths_in_a_resolved_recipe_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = resolve("lst")
    assert recipe.data.root == tmp_path / "data"
    assert recipe.features == (tmp_path / "train.h5",)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "1.0e-3", "+1e-3"])
def test_numbers_may_lack_a_decimal_point(text: str) -> None:
    assert resolve("lst", f"optimizer.lr={text}").optimizer.lr == 1e-3


def test_an_unknown_field_is_reported_with_the_nearest_one() -> None:
    message = refusal("optimizer.weight_decy=0.1")
    assert "optimizer.weight_decy: no such field; did you mean optimizer.weight_decay?" in message
    assert "did you mean optimizer.lr?" in refusal("lr=1e-3")
    assert "did you mean method.options.reduction?" in refusal("method.options.reducton=4")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lr=-1", ["optimizer.lr", "found -1", "greater than 0"]),
        ("optimizer.betas=[0.9, 1.5]", ["optimizer.betas.1", "1.5", "less than 1"]),
        ("training.batch_size=0", ["training.batch_size", "found 0", "greater than or equal to 1"]),
        ("training.batch_size=eight", ["training.batch_size", '"eight"', "integer"]),
        ("training.batch_size=true", ["training.batch_size", "true", "integer"]),
        ("method.options.dropout=1.5", ["method.options.dropout", "1.5", "less than 1"]),
        (
            "method.options.rungs=pool & method.options.initialisation=coherent_magnitude",
            ["method.options", "coherent_magnitude", "linear"],
        ),
        ("head=write", ["head", "'write'", "classify, generate"]),
        ("data.train_split=train", ["data.train_split", "'train'", "train2014"]),
        ("method.name=lsd", ["lsd", "lst"]),
        ("optimizer.lr=.nan", ["optimizer.lr"]),
        ("features=[]", ["features"]),
        ("optimizer=3", ["optimizer"]),
        ("optimizer.lr.x=3", ["optimizer.lr.x", "optimizer.lr is 0.003"]),
        (
            "training.steps=5 & training.epochs=20",
            ["training", "epochs is 20 and steps is 5", "exactly one"],
        ),
        (
            "optimizer.warmup_share=null",
            ["optimizer: warmup_share is None and warmup_steps is None", "exactly one"],
        ),
        ("optimizer.warmup_steps=-1", ["optimizer.warmup_steps", "found -1", "or equal to 0"]),
        (
            "method.name=adapter & method.options={places: []}",
            ["method.options.places: found []; expected a list of at least 1"],
        ),
        ("training.steps=0", ["training.steps", "found 0", "greater than or equal to 1"]),
        ("training.epochs=null", ["training", "epochs is None and steps is None"]),
    ],
)
def test_invalid_values_are_reported_with_field_and_range(override: str, words: list[str]) -> None:
    message = refusal(*override.split(" & "))
    assert all(word in message for word in words), message


def test_an_unknown_task_is_reported_with_those_that_exist() -> None:
    with pytest.raises(InputError, match="'vqq'.*vqa"):
        resolve("lst", "task=vqq")


@pytest.mark.parametrize("field", ["training.precision", "backbone.precision"])
@pytest.mark.parametrize("name", ["fp16", "float16", "FP16"])
def test_float16_is_refused_with_the_reason(field: str, name: str) -> None:
    message = refusal(f"{field}={name}")
    assert field in message
    assert "overflow" in message
    assert "bf16" in message


@pytest.mark.parametrize("field", ["training.precision", "backbone.precision"])
def test_an_unknown_precision_is_reported_with_auto_among_the_others(field: str) -> None:
    assert f'{field}: found "bf61"; expected one of auto, fp32, bf16' in refusal(f"{field}=bf61")


def test_several_problems_are_reported_at_once() -> None:
    message = refusal("optimizer.lr=0", "training.seed=-1", "optimizer.typo=1")
    assert message.count("\n") == 3


@pytest.mark.parametrize("text", ["optimizer.lr", "=3", "a..b=1", "optimizer.lr=[1"])
def test_a_malformed_override_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        parse_override(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimizer: {lr: 1\n", "line 2"),
        ("optimizer: {lr: 1, lr: 2}", "twice"),
        ("a: &x 1\nb: *x", "alias"),
        ("- 1\n- 2", "mapping"),
        ("!!python/object/apply:os.system ['true']", "line 1"),
    ],
)
def test_files_that_are_not_recipes_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words) as caught:
        read_recipe_file(path)
    assert str(path) in str(caught.value)


def test_an_unknown_recipe_is_reported_with_those_that_exist() -> None:
    with pytest.raises(RecipeError, match="adapter, bitfit, demo, .*lst"):
        read_recipe_file("nothing")
