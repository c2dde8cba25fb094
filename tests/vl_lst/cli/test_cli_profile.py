"""`vl-lst profile` as a user calls it."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import T5ForConditionalGeneration

from vl_lst.bundled import BACKBONE_FOLDERS
from vl_lst.choices import BackbonePrecision
from vl_lst.cli import main
from vl_lst.cli._compared_methods import read_compared_methods
from vl_lst.methods import method_names
from vl_lst.profiling.measure import ComparedMethod
from vl_lst.recipes import default_recipe, read_recipe_file, resolve_recipe

DEMO = ["profile", "--backbone", "demo", "--batch-size", "2", "--channels", "8", "--quiet"]
UNUSED = 14  # embeddings that no token has


def test_profile_prints_tables_and_writes_json_and_the_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, figure = tmp_path / "cost.json", tmp_path / "cost.svg"
    arguments = [*DEMO, "--methods", "lst,full", "--steps", "2", "--device", "cpu"]
    arguments += ["--set", "lst.reduction=2", "--json", str(document), "--plot", str(figure)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "saved for backward, by part" in printed.out
    assert "seconds per step" in printed.out
    assert max(map(len, printed.out.splitlines())) <= 80
    assert not printed.err
    result = json.loads(document.read_text())
    ladder, full = result["methods"]
    assert ladder["options"]["reduction"] == 2
    assert ladder["ratio"] == 1
    assert full["ratio"] == pytest.approx(full["seconds"]["step"] / ladder["seconds"]["step"])
    assert ladder["saved_bytes"]["total"] < full["saved_bytes"]["total"]
    assert full["trainable_percent"] == 100
    assert ladder["peak_allocated"] is None
    assert result["workload"]["channels"] == 8
    assert "reset after 2 warm-up steps" in result["definition"]["peak_allocated"]
    drawn = figure.read_text()
    assert ">lst<" in drawn
    assert ">full<" in drawn


def test_methods_are_measured_both_ways_and_each_in_its_own_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, figure = tmp_path / "cost.json", tmp_path / "cost.svg"
    arguments = [*DEMO, "--methods", "lst,lora,qlora", "--dry-run", "--recompute", "both"]
    assert main([*arguments, "--json", str(document), "--plot", str(figure)]) == 0
    printed = capsys.readouterr().out
    assert "demo in fp32 (qlora: nf4)" in printed
    assert "* blocks recomputed in the backward pass" in printed
    assert max(map(len, printed.splitlines())) <= 80
    methods = json.loads(document.read_text())["methods"]
    for kept, again in zip(methods[::2], methods[1::2], strict=True):
        assert (kept["method"], kept["recompute"], again["recompute"]) == (
            *(again["method"], False, True),
        )
        assert f" {kept['method']}* " in printed
        assert again["saved_bytes"]["total"] < kept["saved_bytes"]["total"]
        assert again["parameter_bytes"] == kept["parameter_bytes"]
    precisions = [method["backbone_precision"] for method in methods[::2]]
    assert precisions == ["fp32", "fp32", "nf4"]
    assert methods[2]["trainable"] == methods[4]["trainable"]
    assert methods[4]["parameter_bytes"] < methods[2]["parameter_bytes"]
    assert figure.read_text().count(">qlora<") == 1, "one label for both points"


@pytest.mark.parametrize(
    ("precision", "expected"), [("int8", ["int8", "int8"]), ("bf16", ["bf16", "nf4"])]
)
def test_a_method_keeps_its_precision_only_if_it_cannot_have_the_wanted_one(
    precision: BackbonePrecision, expected: list[str]
) -> None:
    compared = read_compared_methods(
        "lora,qlora", {}, [], source=None, backbone="demo", precision=precision
    )
    assert [each.backbone_precision for each in compared] == expected


@pytest.mark.parametrize("how", [["--dry-run"], ["--steps", "1", "--device", "cpu"]])
@pytest.mark.parametrize("backbone", ["demo", "demo-image"])
def test_every_method_is_profiled_on_text_alone(
    tmp_path: Path, backbone: str, how: list[str]
) -> None:
    document = tmp_path / "cost.json"
    arguments = ["profile", "--backbone", backbone, "--images", "0", "--batch-size", "2", *how]
    assert main([*arguments, "--quiet", "--json", str(document)]) == 0
    result = json.loads(document.read_text())
    workload = result["workload"]
    assert not workload["has_visual_embedding"]
    assert (workload["images"], workload["image_tokens"], workload["channels"]) == (0, 0, 0)
    # Heads that generate belong to the backbone, so probing would train nothing.
    assert {method["method"] for method in result["methods"]} == set(method_names()) - {"probe"}
    for method in result["methods"]:
        assert "visual embedding" not in method["saved_bytes"]
        # Nothing of a frozen backbone is saved, unless gradients pass its last block.
        is_frozen = method["method"] in ("lst", "qst", "side", "unipt", "xladder")
        is_beside = is_frozen or method["method"] == "sherl"
        parts = {part.split()[0] for part in method["saved_bytes"]}
        assert ("side" in parts, "backbone" in parts) == (is_beside, not is_frozen)


@pytest.mark.parametrize(
    ("recipe", "trainable"),
    [
        ("glue-lst-paper", 3_878_712),
        ("glue-lst-paper-large", 9_057_328),
        ("glue-lst-paper-3b", 2_494_896),
        ("glue-full", 222_882_048),
        ("glue-adapter", 3_625_728),
        ("glue-lora", 3_820_644),
        ("glue-bitfit", 280_932),
        ("glue-prompt", 76_800),
        ("glue-sherl", 1_907_236),
    ],
)
def test_the_recipes_of_glue_train_as_many_parameters_as_the_paper_s_code(
    tmp_path: Path, recipe: str, trainable: int
) -> None:
    """The counts of the reference implementation, whose vocabulary has 32,100 entries."""
    document = tmp_path / "cost.json"
    arguments = ["profile", "--recipe", recipe, "--images", "0", "--dry-run", "--batch-size", "1"]
    more = ["--text-tokens", "2", "--vocabulary", "32100", "--json", str(document), "--quiet"]
    assert main([*arguments, *more]) == 0
    (method,) = json.loads(document.read_text())["methods"]
    assert method["trainable"] == trainable
    assert method["recipe"] == recipe


def test_a_backbone_without_a_decoder_picks_from_as_many_answers_as_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainable = []
    arguments = ["profile", "--backbone", "bert-base-uncased", "--images", "0", "--dry-run"]
    for answers in ("2", "3"):
        document = tmp_path / f"{answers}.json"
        more = ["--methods", "lst", "--answers", answers, "--json", str(document)]
        assert main([*arguments, *more]) == 0
        assert f"from {answers} answers" in capsys.readouterr().out
        trainable.append(json.loads(document.read_text())["methods"][0]["trainable"])
    assert 0 < trainable[1] - trainable[0] < 10_000


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_the_same_numbers_give_the_same_plot(tmp_path: Path, suffix: str) -> None:
    arguments = [*DEMO, "--methods", "lst,side,full", "--dry-run", "--plot"]
    files = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for file in files:
        assert main([*arguments, str(file)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_dry_run_of_the_largest_backbone_takes_seconds_and_no_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "cost.json"
    arguments = ["profile", "--backbone", "t5-3b", "--dry-run", "--methods", "lst", "--quiet"]
    assert main([*arguments, "--backbone-precision", "nf4", "--json", str(document)]) == 0
    result = json.loads(document.read_text())
    (ladder,) = result["methods"]
    assert ladder["total"] > 2_851_598_336
    assert ladder["training_bytes"] < 12 * 2**30
    assert result["device"] is None
    assert "estimate" in result["definition"]
    assert "seconds per step" not in capsys.readouterr().out


def test_a_recipe_sets_backbone_method_and_options(tmp_path: Path) -> None:
    document = tmp_path / "cost.json"
    arguments = ["profile", "--recipe", "demo", "--dry-run", "--quiet", "--json", str(document)]
    assert main(arguments) == 0
    result = json.loads(document.read_text())
    assert result["backbone"] == "demo"
    (method,) = result["methods"]
    assert method["method"] == "lst"
    assert method["options"]["recompute"] is False


@pytest.mark.parametrize("backbone", ["demo", "t5-small"])
def test_methods_have_the_settings_that_train_uses(backbone: str) -> None:
    compared = read_compared_methods("all", {}, [], source=None, backbone=backbone)
    assert sorted(each.name for each in compared) == method_names()
    for each in compared:
        recipe = default_recipe(each.name, backbone)
        trained = resolve_recipe(
            read_recipe_file(recipe),
            [("task", "vqa"), ("data.root", "/data"), ("features", ["a.h5"])]
            + ([] if backbone == "demo" else [("backbone.name", backbone)]),
        )
        assert each.recipe == recipe
        options = dict(trained.method.options)
        if options.get("recompute") == "auto":
            options["recompute"] = True  # what `auto` is measured as
        assert each.resolved() == ComparedMethod(each.name, options).resolved()


def test_settings_and_their_recipe_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "cost.json"
    arguments = [*DEMO, "--methods", "lora,bitfit", "--dry-run", "--json", str(document)]
    assert main(arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for profile in json.loads(document.read_text())["methods"]:
        name, recipe = profile["method"], f"demo-{profile['method']}"
        options = read_recipe_file(recipe)["method"].get("options", {})
        assert profile["recipe"] == recipe
        assert profile["options"].items() >= options.items()
        assert f"{name} (recipe {recipe}): " in printed
    assert "rank=32" in printed


def test_options_take_precedence_over_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, recipe = tmp_path / "cost.json", tmp_path / "own.yaml"
    recipe.write_text("extends: demo-lora\nmethod:\n  name: lora\n  options:\n    rank: 5\n")
    arguments = [*DEMO, "--recipe", str(recipe), "--methods", "lora,dora", "--dry-run"]
    assert main([*arguments, "--set", "dora.rank=7", "--json", str(document)]) == 0
    lora, dora = json.loads(document.read_text())["methods"]
    assert (lora["options"]["rank"], lora["recipe"]) == (5, str(recipe))
    assert (dora["options"]["rank"], dora["recipe"]) == (7, "demo-dora")


def test_a_recipe_may_leave_out_the_grid(tmp_path: Path) -> None:
    recipe, document = tmp_path / "recipe.yaml", tmp_path / "cost.json"
    recipe.write_text("visual:\n  image_order_std: 1.0\nmethod:\n  name: lst\n")
    arguments = [*DEMO, "--recipe", str(recipe), "--dry-run", "--json", str(document)]
    assert main(arguments) == 0
    assert json.loads(document.read_text())["workload"]["pooled_grid"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "lst,lts"], "no method 'lts'"),
        (["--methods", "lst,lst"], "expected each method once"),
        (["--methods", "lst", "--set", "lst.reduction=x"], "lst.reduction: found 'x'"),
        (["--methods", "lst", "--set", "lst.initialisation=principal"], "lst: rungs is normalised"),
        (["--methods", "lst", "--set", "full.x=1"], "expected METHOD.OPTION=VALUE"),
        (["--methods", "full", "--backbone-precision", "int8"], "set backbone.precision to fp32"),
        (
            ["--methods", "lst", "--recompute", "both", "--set", "lst.recompute=true"],
            "--set lst.recompute=true and --recompute both set the same option",
        ),
        (["--backbone", "/no/such/folder"], "no configuration of a backbone '/no/such/folder'"),
        (["--backbone", "/no/such/folder", "--dry-run"], "no configuration of a backbone"),
        (["--image-tokens", "50"], "cannot pool 50 feature vectors"),
        (["--plot", "cost.gif"], "expected one of .svg, .png, .pdf"),
    ],
)
def test_invalid_settings_are_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DEMO, *arguments]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("error:") == 1
    assert not printed.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("visual: [1]", "visual: found [1]; expected a mapping"),
        ("visual: {pooled_grid: x}", "visual.pooled_grid: found 'x'; expected an integer"),
        ("visual: {pooled_grid: -1}", "visual.pooled_grid: found -1; expected an integer"),
        ("method: lst", "method: found 'lst'; expected a mapping"),
        ("method: {name: [lst]}", "method.name: found ['lst']; expected a string"),
        ("method: {name: lst, options: [1]}", "method.options: found [1]; expected a mapping"),
        ("backbone: {name: 5}", "backbone.name: found 5; expected a string"),
        ("training: 5", "training: found 5; expected a mapping"),
        (
            "{backbone: {name: demo}, training: {precision: fp16}}",
            "training.precision: found 'fp16'; expected one of auto, fp32, bf16",
        ),
    ],
)
def test_wrong_types_in_a_recipe_are_one_message(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert main(["profile", "--dry-run", "--recipe", str(recipe), "--quiet"]) == 1
    assert message in capsys.readouterr().err


def test_a_batch_too_large_for_any_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    large = ["--batch-size", "65536", "--images", "100", "--image-tokens", "65536", "--grid", "0"]
    assert main([*DEMO, "--methods", "lst", *large]) == 1
    assert "the features of a batch have" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dry-run", "--steps", "3"],
        ["--dry-run", "--device", "cuda"],
        ["--vocabulary", "100"],
        ["--images", "0"],  # with the channels above
        ["--answers", "2"],
        ["--batch-size", "0"],
        ["--precision", "fp16"],
        ["--backbone-precision", "int4"],
        ["--device", "tpu"],
    ],
)
def test_options_that_contradict_or_do_not_exist_are_wrong_usage(
    arguments: list[str],
) -> None:
    assert main([*DEMO, *arguments]) == 2


def test_text_alone_has_no_shapes_of_features(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--image-tokens", "--channels", "--grid"):
        arguments = ["profile", "--backbone", "demo", "--images", "0", "--dry-run", option, "4"]
        assert main(arguments) == 2
        printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert "--images 0 has no features: leave out --image-tokens, --channels and" in printed


def test_a_backbone_that_reads_images_has_its_own_shapes_of_features(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for option in ("--image-tokens", "--channels", "--grid"):
        arguments = ["profile", "--backbone", "demo-image", "--dry-run", option, "4"]
        assert main(arguments) == 2
        printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert "demo-image reads images as" in printed
        assert "leave out --image-tokens, --channels and --grid" in printed


def test_a_backbone_is_required() -> None:
    assert main(["profile"]) == 2


def test_examples_of_three_images_can_be_profiled(tmp_path: Path) -> None:
    document = tmp_path / "cost.json"
    arguments = [*DEMO, "--methods", "lst", "--set", "lst.reduction=2", "--steps", "1"]
    assert main([*arguments, "--device", "cpu", "--images", "3", "--json", str(document)]) == 0
    assert json.loads(document.read_text())["workload"]["images"] == 3


@pytest.fixture
def wide_demo(tmp_path: Path) -> Path:
    """Return the folder of the demo's backbone with embeddings that no token has."""
    folder = tmp_path / "wide"
    shutil.copytree(BACKBONE_FOLDERS["demo"], folder)
    model = T5ForConditionalGeneration.from_pretrained(folder)
    model.resize_token_embeddings(model.config.vocab_size + UNUSED)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("vocabulary", ["tokenizer", "null"])
def test_the_recipes_vocabulary_is_that_of_the_profile(
    tmp_path: Path, wide_demo: Path, vocabulary: str
) -> None:
    recipe, document = tmp_path / "recipe.yaml", tmp_path / "cost.json"
    recipe.write_text(
        f"backbone: {{name: {wide_demo}, vocabulary: {vocabulary}}}\nmethod: {{name: bitfit}}\n"
    )
    arguments = ["profile", "--recipe", str(recipe), "--images", "0", "--batch-size", "2"]
    arguments += ["--steps", "0", "--device", "cpu", "--quiet", "--json", str(document)]
    assert main(arguments) == 0
    [bitfit] = json.loads(document.read_text())["methods"]
    assert main([*DEMO[:3], "--images", "0", "--methods", "bitfit", *arguments[5:]]) == 0
    [expected] = json.loads(document.read_text())["methods"]
    added = 0 if vocabulary == "tokenizer" else UNUSED
    assert bitfit["trainable"] == expected["trainable"] + added


def test_a_vocabulary_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("backbone: {name: demo, vocabulary: words}\nmethod: {name: bitfit}\n")
    assert main(["profile", "--recipe", str(recipe), "--quiet"]) == 1
    assert (
        "backbone.vocabulary: found 'words'; expected one of tokenizer" in capsys.readouterr().err
    )
