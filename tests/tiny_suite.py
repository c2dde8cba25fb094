"""A tiny GLUE in the official layout, and a random T5 that knows the digits of its answers."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from tasks import SUITES

FIXTURES = Path(__file__).parent / "fixtures"
WORDS = "<pad> </s> <unk> 0 1 2 5.0 2.4 sentence: sentence1: sentence2: A a bird sings.".split()


@dataclass(frozen=True)
class TinySuite:
    """Paths of a tiny suite.

    Args:
        root: Data root, with `glue/`.
        backbone: Folder of the T5.
    """

    root: Path
    backbone: Path

    def train_arguments(self, out: Path, *more: str) -> list[str]:
        """Return command line arguments that train all tasks in a few seconds."""
        return [
            *("train", "--task", "glue", "--data-root", str(self.root), "--out", str(out)),
            *("--backbone", str(self.backbone), "--method", "lst", "--quiet"),
            *("--set", "method.options.reduction=2", "--set", "training.steps=2"),
            *("--set", "training.batch_size=2", "--set", "training.evaluation_batch_size=4"),
            *("--set", "training.workers=0", "--set", "training.device=cpu", *more),
        ]


def make_suite(folder: Path) -> TinySuite:
    """Write a suite into an empty folder."""
    root = folder / "data"
    for task in (*SUITES["glue"], "ax", "wnli"):
        shutil.copytree(FIXTURES / task / "glue", root / "glue", dirs_exist_ok=True)
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backbone = folder / "t5"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(backbone)
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(WORDS),
        d_model=8,
        d_kv=4,
        d_ff=16,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(backbone)
    return TinySuite(root, backbone)
