"""Special tokens of prompts and answers are the tokenizer's own, in the formats of all families."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, MBart50Tokenizer, PreTrainedTokenizerFast

from tasks import get_task
from vl_lst.backbones.families import find_family
from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.backbones.tokenizer_files import load_tokenizer
from vl_lst.data.text_issues import answer_issues, prompt_issues
from vl_lst.errors import ModelError

BOS, PAD, EOS, UNK, LANG, IS, IT, RED = range(8)
TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "en_XX", "is", "it", "red")


def tokenizer(template: str | None, *, has_eos: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words with a template such as `<s> $A </s>`."""
    ids = {token: number for number, token in enumerate(TOKENS)}
    fast = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    if template is not None:
        used = [(token, ids[token]) for token in template.split() if token != "$A"]
        fast.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<s>", "</s>", "en_XX"],
        **({"eos_token": "</s>"} if has_eos else {}),
    )


@pytest.mark.parametrize(
    ("template", "decoder", "prompt", "answer"),
    [
        # As always: end-of-sequence, whether or not the tokenizer adds it.
        (None, {}, [IS, RED, EOS], [RED, EOS]),
        ("$A </s>", {"start_token_id": PAD}, [IS, RED, EOS], [RED, EOS]),
        # The decoder starts with another token than the answer.
        ("<s> $A </s>", {"start_token_id": EOS}, [BOS, IS, RED, EOS], [BOS, RED, EOS]),
        # The decoder starts with the first token of a text.
        ("<s> $A", {"start_token_id": BOS}, [BOS, IS, RED], [RED, EOS]),
        # A language code before or after the text.
        ("en_XX $A </s>", {"start_token_id": EOS}, [LANG, IS, RED, EOS], [LANG, RED, EOS]),
        ("$A </s> en_XX", {"start_token_id": LANG}, [IS, RED, EOS, LANG], [RED, EOS]),
        # The backbone answers in another language.
        (
            "en_XX $A </s>",
            {"start_token_id": EOS, "forced_bos_token_id": IT},
            [LANG, IS, RED, EOS],
            [IT, RED, EOS],
        ),
        (
            "$A </s>",
            {"start_token_id": PAD, "forced_bos_token_id": BOS},
            [IS, RED, EOS],
            [BOS, RED, EOS],
        ),
    ],
)
def test_special_tokens_are_those_of_the_backbone(
    template: str | None, decoder: dict[str, int], prompt: list[int], answer: list[int]
) -> None:
    made = CachingTokenizer(tokenizer(template), **decoder)
    assert made.encode_prompt("is red", 20) == tuple(prompt)
    assert made.encode_answer("red", 20) == tuple(answer)
    assert made.decode(made.encode_answer("red", 20)[-2:]) == "red"
    # Truncation cuts the text and keeps the special tokens.
    special = len(prompt) - 2
    assert made.num_prompt_specials == special
    long = made.encode_prompt("is it red is it red", special + 1)
    assert long == tuple(token for token in prompt if token != RED)
    cut = made.encode_answer("red is it", made.num_answer_specials + 1)
    assert cut == tuple(answer)
    assert made.encode_prompt("is red", 1) == tuple(t for t in prompt if t not in (IS, RED))
    again = pickle.loads(pickle.dumps(made))
    assert again.encode_prompt("is red", 20) == tuple(prompt)
    assert again.encode_answer("red", 20) == tuple(answer)


def test_an_encoders_tokenizer_needs_no_end_of_sequence() -> None:
    made = CachingTokenizer(tokenizer("<s> $A </s>", has_eos=False))
    assert made.eos_token_id is None
    assert made.encode_prompt("is red", 20) == (BOS, IS, RED, EOS)
    assert made.encode_prompt("is red", 3) == (BOS, IS, EOS)
    bare = CachingTokenizer(tokenizer(None, has_eos=False))
    assert bare.encode_prompt("is red", 20) == (IS, RED)


def test_a_tokenizer_that_changes_the_text_is_refused() -> None:
    class Reversing:
        pad_token_id, eos_token_id = PAD, EOS

        def __call__(self, text: str, *, add_special_tokens: bool, **_: object) -> SimpleNamespace:
            ids = [ord(letter) for letter in text]
            return SimpleNamespace(input_ids=ids[::-1] if add_special_tokens else ids)

    with pytest.raises(ModelError, match="expected the same ids with others before and after"):
        CachingTokenizer(Reversing())


def test_lengths_of_texts_include_all_special_tokens() -> None:
    made = CachingTokenizer(tokenizer("<s> $A </s>"), start_token_id=BOS)
    task = get_task("vqa")
    assert prompt_issues(["is it red"], task, made).longest == 5
    assert answer_issues(["is it red"], task, made, limit=9).longest == 4
    assert answer_issues(["is it red"], task, made, limit=3).too_long == 1


def config_of(model_type: str, **others: Any) -> tuple[Any, Any]:
    family = find_family(model_type)
    sizes = {
        "bart": {
            "d_model": 8,
            **{
                f"{stack}_{size}": 2
                for stack in ("encoder", "decoder")
                for size in ("layers", "attention_heads", "ffn_dim")
            },
        },
        "t5": {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2},
    }
    fields = {"model_type": model_type, **sizes[others.pop("like", model_type)], **others}
    return family.build_config(family.fields.model_validate(fields).values()), family


def test_pairs_of_bytes_are_read_from_a_vocabulary_and_merges(tmp_path: Path) -> None:
    """The files of `facebook/bart-base`, without a `tokenizer.json`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: number for number, token in enumerate(("<s>", "<pad>", "</s>", "<unk>"))}
    merged = ("re", "red", "Ġred")
    ids |= {token: len(ids) + place for place, token in enumerate((*letters, *merged))}
    (tmp_path / "vocab.json").write_text(json.dumps({**ids, "<mask>": len(ids)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nr e\nre d\nĠ red\n")
    config, family = config_of("bart", vocab_size=len(ids) + 1)
    made = CachingTokenizer(load_tokenizer(tmp_path, config, family), start_token_id=2)
    assert made.encode_prompt("red red", 9) == (0, ids["red"], ids["Ġred"], 2)
    assert made.encode_answer("red", 9) == (0, ids["red"], 2)
    assert made.decode((0, ids["red"], ids["Ġred"], 2, 1)) == "red red"


def test_language_codes_are_read_from_a_tokenizer_file(tmp_path: Path) -> None:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("▁red", -1.0), ("▁is", -1.0), ("▁", -2.0)]
    # The codes follow the pieces, and the mask follows them.
    codes = list(MBart50Tokenizer().lang_code_to_id)
    pieces += [(code, 0.0) for code in codes] + [("<mask>", 0.0)]
    MBart50Tokenizer(vocab=pieces, src_lang="fr_XX").save_pretrained(tmp_path)
    config, family = config_of("mbart", like="bart", vocab_size=len(pieces) + 1)
    loaded = load_tokenizer(tmp_path, config, family)
    french = loaded.convert_tokens_to_ids("fr_XX")
    made = CachingTokenizer(loaded, start_token_id=2)
    assert made.encode_prompt("is red", 9) == (french, 5, 4, 2)
    assert made.encode_answer("red", 9) == (french, 4, 2)
    assert made.decode((french, 4, 2)) == "red"


def test_bytes_need_no_vocabulary_file(tmp_path: Path) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.model"))
    assert not (tmp_path / "tokenizer.json").exists()
    config, family = config_of("t5", vocab_size=384)
    made = CachingTokenizer(load_tokenizer(tmp_path, config, family), start_token_id=0)
    assert made.encode_prompt("é", 9) == (0xC3 + 3, 0xA9 + 3, 1)
    assert made.encode_answer("red", 3) == (ord("r") + 3, ord("e") + 3, 1)
    assert made.decode(made.encode_answer("red", 9)) == "red"
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path, config, family)


def test_a_vocabulary_of_sentencepiece_needs_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of transformers asks for another package."""
    (tmp_path / "spiece.model").write_bytes(b"vocabulary")
    monkeypatch.setattr("vl_lst.backbones.tokenizer_files.find_spec", lambda name: None)
    any_model: Any = SimpleNamespace()
    with pytest.raises(ModelError, match=r"spiece.model cannot be read, since sentencepiece"):
        load_tokenizer(tmp_path, any_model, any_model)
