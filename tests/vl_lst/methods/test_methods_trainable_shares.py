"""The number of trainable parameters on backbones of real size equals the paper's."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.methods import get_method
from vl_lst.models.config import HeadConfig, VisualConfig

SIZES: Mapping[str, Mapping[str, int]] = {
    "base": {"d_model": 768, "d_ff": 3072, "d_kv": 64, "num_heads": 12, "num_layers": 12},
    "large": {"d_model": 1024, "d_ff": 4096, "d_kv": 64, "num_heads": 16, "num_layers": 24},
    "3b": {"d_model": 1024, "d_ff": 16_384, "d_kv": 128, "num_heads": 32, "num_layers": 24},
}
# T5's vocabulary with VL-T5's 100 additional tokens, and that of T5's tokenizer.
IMAGE_VOCABULARY, TEXT_VOCABULARY = 32_200, 32_100
VISUAL = VisualConfig(channels=2048, tokens=49)

# Counts from the reference implementation, and percentages from the paper. With images, the
# percentage is of the whole model, with text alone of the plain backbone.
IMAGE_COUNTS = {
    "lst": (17_967_384, 7.46),
    "adapter": (19_333_632, 7.98),
    "lora": (18_170_112, 7.54),
    "bitfit": (1_865_416, 0.83),
    "prompt": (2_842_400, 1.26),
    "full": (224_540_160, 100.0),
}
# Of VL-PET, whose paper counts the same way.
VL_PET_COUNTS = {
    "small": (8_936_856, 4.51),
    "middleX": (8_918_424, 4.50),
    "middleY": (8_918_400, 4.50),
    "large": (16_000_896, 7.31),
}
VISUAL_EMBEDDING = 1_581_312
BASE_LAYERS = (1, 2, 3, 5, 6, 7, 9, 10, 11)
ODD_LAYERS = tuple(range(1, 24, 2))
TEXT_COUNTS = {
    "nine of twelve layers": ("base", "lst", {"layers": BASE_LAYERS}, 3_878_712, 1.7403),
    "all layers": ("base", "lst", {"layers": None}, 5_097_240, 2.287),
    "six layers": ("base", "lst", {"layers": (2, 3, 6, 7, 10, 11)}, 2_660_184, 1.1935),
    "three layers": ("base", "lst", {"layers": (3, 7, 11)}, 1_441_656, 0.6468),
    "odd layers of large": ("large", "lst", {"layers": ODD_LAYERS}, 9_057_328, 1.2279),
    "one layer of 3B": ("3b", "lst", {"layers": (23,)}, 2_494_896, 0.0875),
    "adapter": (
        "base",
        "adapter",
        {
            "reduction": 16,
            "places": ("self_attention", "feed_forward"),
            "train_norms": True,
            "initialisation": "small",
        },
        3_625_728,
        1.6267,
    ),
    "lora": (
        "base",
        "lora",
        {"rank": 32, "alpha": 32, "train_biases": True, "train_position_tables": True},
        3_820_644,
        1.7142,
    ),
    "bitfit": ("base", "bitfit", {"final_norms": False}, 280_932, 0.126),
    "prompt": ("base", "prompt", {"tokens": 100, "middle_width": None}, 76_800, 0.0345),
    "full": ("base", "full", {}, 222_882_048, 100.0),
    # Of each query and value of 36 attentions, 256 and 768 numbers.
    "vera": ("base", "vera", {}, 73_728, 0.0331),
    # Counts of the method's own paper.
    "sherl": ("base", "sherl", {"reduction": 8, "layers": BASE_LAYERS}, 1_907_236, 0.8557),
    "wider sherl": ("base", "sherl", {"reduction": 4, "layers": BASE_LAYERS}, 4_511_812, 2.0243),
}


# Without the visual embedding; from the arithmetic of the methods' papers.
RELATIVE_COUNTS = {
    "qst at 16": ("qst", {"reduction": 16}, 1_133_088),
    "qst at 8": ("qst", {"reduction": 8}, 3_517_248),
    "qst at 4": ("qst", {"reduction": 4}, 12_930_432),
    "xladder of six layers": ("xladder", {"reduction": 4}, 14_614_296),
}


def build(
    name: str,
    *,
    backbone_size: str = "base",
    vocabulary: int = IMAGE_VOCABULARY,
    visual: VisualConfig | None = VISUAL,
    **options: Any,
) -> tuple[Any, int]:
    """Build a model on the meta device, and count the parameters of its plain backbone."""
    method = get_method(name)
    with torch.device("meta"):
        t5 = T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, **SIZES[backbone_size]))
        plain = sum(parameter.numel() for parameter in t5.parameters())
        model = method.attach(
            FrozenBackbone(t5),
            method.options.model_validate(options),
            visual=visual,
            heads={"task": HeadConfig(kind="generate")},
        )
    return model, plain


def count_trainable(name: str, model: Any) -> int:
    return sum(parameter.numel() for parameter in get_method(name).trainable(model).values())


@pytest.mark.parametrize("name", IMAGE_COUNTS)
def test_trainable_parameters_equal_the_papers(name: str) -> None:
    model, _ = build(name)
    trainable = count_trainable(name, model)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert (trainable, round(100 * trainable / total, 2)) == IMAGE_COUNTS[name]


@pytest.mark.parametrize("size", VL_PET_COUNTS)
def test_trainable_parameters_of_vl_pet_equal_the_papers(size: str) -> None:
    model, _ = build("vl-pet", size=size)
    trainable = count_trainable("vl-pet", model)
    total = sum(parameter.numel() for parameter in model.parameters())
    share = round(100 * trainable / total, 2)
    assert (trainable - VISUAL_EMBEDDING, share) == VL_PET_COUNTS[size]


@pytest.mark.parametrize("row", TEXT_COUNTS)
def test_trainable_parameters_on_text_equal_the_papers(row: str) -> None:
    size, name, options, count, percent = TEXT_COUNTS[row]
    if "layers" in options:
        layers = options["layers"]
        rest = {key: value for key, value in options.items() if key != "layers"}
        options = {"reduction": 8, **rest, "encoder_layers": layers, "decoder_layers": layers}
    model, plain = build(
        name, backbone_size=size, vocabulary=TEXT_VOCABULARY, visual=None, **options
    )
    trainable = count_trainable(name, model)
    assert trainable == count
    assert 100 * trainable / plain == pytest.approx(percent, abs=5e-5)


@pytest.mark.parametrize("row", RELATIVE_COUNTS)
def test_trainable_parameters_of_the_ladders_relatives(row: str) -> None:
    name, options, count = RELATIVE_COUNTS[row]
    model, _ = build(name, visual=None, **options)
    assert count_trainable(name, model) == count


@pytest.mark.parametrize("name", ["dora", "ia3", "probe", "side", "vera", "vl-pet"])
def test_methods_beyond_the_paper_build_on_the_meta_device(name: str) -> None:
    model, _ = build(name)
    assert all(parameter.is_meta for parameter in model.parameters())
