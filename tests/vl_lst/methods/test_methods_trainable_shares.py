"""The number of trainable parameters on T5-base equals the paper's."""

from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.methods import get_method
from vl_lst.models.config import HeadConfig, VisualConfig

# Counts from the reference implementation, and percentages from the paper.
COUNTS = {
    "lst": (17_967_384, 7.46),
    "adapter": (19_333_632, 7.98),
    "lora": (18_170_112, 7.54),
    "bitfit": (1_865_416, 0.83),
    "prompt": (2_842_400, 1.26),
    "full": (224_540_160, 100.0),
}
# T5-base with VL-T5's 100 additional tokens.
T5_BASE = T5Config(vocab_size=32200, d_model=768, d_ff=3072, d_kv=64, num_heads=12, num_layers=12)


def build(name: str) -> Any:
    """Build a model on the meta device."""
    method = get_method(name)
    with torch.device("meta"):
        return method.attach(
            FrozenBackbone(T5ForConditionalGeneration(T5_BASE)),
            method.options(),
            visual=VisualConfig(channels=2048, tokens=49),
            heads={"vqa": HeadConfig(kind="generate")},
        )


@pytest.mark.parametrize("name", COUNTS)
def test_trainable_parameters_equal_the_papers(name: str) -> None:
    model = build(name)
    trainable = sum(p.numel() for p in get_method(name).trainable(model).values())
    total = sum(parameter.numel() for parameter in model.parameters())
    assert (trainable, round(100 * trainable / total, 2)) == COUNTS[name]


@pytest.mark.parametrize("name", ["dora", "ia3", "probe", "side"])
def test_methods_beyond_the_paper_build_on_the_meta_device(name: str) -> None:
    assert all(parameter.is_meta for parameter in build(name).parameters())
