"""Batches: truncated and distinct texts, the paper's targets, the same in any worker."""

from collections import Counter
from dataclasses import fields
from functools import partial
from typing import Any

import pytest
import torch
from tiny_run import TinyWorld
from torch.utils.data import DataLoader

from feature_extraction.errors import StoreError
from feature_extraction.store import open_features
from tasks import Example, get_task
from vl_lst.backbones.backbone import IGNORED
from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.data.batches import (
    Batches,
    BlankFeatures,
    MixedBatches,
    load_in_order,
    prompt_fields,
)
from vl_lst.data.order import Portion, Schedule, StepOrder
from vl_lst.data.targets import AnswerScores, SampledAnswers
from vl_lst.models.batch import Batch

TASK = get_task("vqa")


def example(*targets: tuple[str, float], prompt: str = "vqa: is it red?") -> Example:
    return Example(id="1", image_ids=("i",), prompt=prompt, targets=targets)


def equal(left: Batch, right: Batch) -> bool:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    return all(same(getattr(left, f.name), getattr(right, f.name)) for f in fields(Batch))


def test_prompts_are_truncated_before_end_of_sequence(tokenizer: CachingTokenizer) -> None:
    long = tokenizer.encode_prompt("vqa : is it red ? is it green ?", 5)
    assert len(long) == 5
    assert long[-1] == tokenizer.eos_token_id
    assert long[:-1] == tokenizer.encode_prompt("vqa : is it red ? is it green ?", 20)[:4]
    assert tokenizer.encode_prompt("", 5) == (tokenizer.eos_token_id,)


def test_truncation_keeps_the_suffix(tokenizer: CachingTokenizer) -> None:
    """A prompt without its end would ask something else."""
    prompt, suffix = "vqa : is it red ? is it green ? a thing", " a thing"
    whole = tokenizer.encode_prompt(prompt, 20)
    assert tokenizer.encode_prompt(prompt, 20, suffix=suffix) == whole
    assert tokenizer.encode_prompt(prompt, len(whole), suffix=suffix) == whole
    shorter = tokenizer.encode_prompt(prompt, 7, suffix=suffix)
    assert shorter == (*whole[:4], *whole[-3:])
    assert tokenizer.encode_prompt(prompt, 2, suffix=suffix) == (whole[-3], whole[-1])
    made = prompt_fields([prompt], tokenizer, max_tokens=7, suffix=suffix)
    assert made["prompt_ids_UT"].tolist() == [list(shorter)]


def test_equal_prompts_are_merged(tokenizer: CachingTokenizer) -> None:
    prompts = ["is it red?", "what color is it?", "is it red?", "is  it  red ?"]
    made = prompt_fields(prompts, tokenizer, max_tokens=20)
    assert made["prompt_ids_UT"].shape[0] == 2
    assert made["prompt_index_B"].tolist() == [0, 1, 0, 0]
    assert made["prompt_ids_UT"][0].tolist()[-2:] == [
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    ]


def test_a_tokenizer_can_be_pickled(tokenizer: CachingTokenizer) -> None:
    import pickle

    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode_prompt("is it red?", 20) == tokenizer.encode_prompt("is it red?", 20)
    assert again.decode(tokenizer.encode_prompt("is it red?", 20)) == tokenizer.decode(
        tokenizer.encode_prompt("is it red?", 20)
    )


def test_soft_scores_are_zero_for_answers_off_the_list() -> None:
    targets = AnswerScores(["yes", "no"])
    examples = [example(("no", 0.3), ("maybe", 1.0)), example(("maybe", 1.0)), example()]
    scores = targets.fields(examples, [(0, 0)] * 3, torch.zeros(3))["scores_BA"]
    assert torch.equal(scores, torch.tensor([[0.0, 0.3], [0.0, 0.0], [0.0, 0.0]]))


def test_answers_are_sampled_in_proportion_to_their_weight(tokenizer: CachingTokenizer) -> None:
    targets = SampledAnswers(tokenizer, max_tokens=10, seed=3)
    asked = example(("yes", 0.9), ("never", 0.0), ("no", 0.3))
    sampled = Counter(targets.sample(asked, (epoch, 0)) for epoch in range(3000))
    assert set(sampled) == {("yes", 0.9), ("no", 0.3)}
    assert sampled["yes", 0.9] / 3000 == pytest.approx(0.75, abs=0.03)


def test_samples_depend_only_on_seed_epoch_and_example(tokenizer: CachingTokenizer) -> None:
    asked = example(*((word, 1.0) for word in "abcdefgh"))

    def draws(seed: int) -> list[str]:
        targets = SampledAnswers(tokenizer, max_tokens=10, seed=seed)
        return [targets.sample(asked, (e, row))[0] for e in range(4) for row in range(4)]

    assert draws(1) == draws(1) != draws(2)
    assert len(set(draws(1))) > 3


def test_labels_end_with_end_of_sequence_and_equal_pairs_are_merged(
    tokenizer: CachingTokenizer,
) -> None:
    targets = SampledAnswers(tokenizer, max_tokens=3, seed=0)
    answers = ["yes", "a thing of other", "yes", "yes"]
    examples = [example((answer, 0.6)) for answer in answers]
    made = targets.fields(examples, [(0, 0)] * 4, torch.tensor([0, 0, 0, 1]))
    assert made["labels_BL"].shape == (4, 3)
    assert made["labels_BL"][0].tolist()[1:] == [tokenizer.eos_token_id, IGNORED]
    assert made["labels_BL"][1, -1] == tokenizer.eos_token_id
    assert made["weights_B"].tolist() == pytest.approx([0.6] * 4)
    assert made["pair_rows_P"].tolist() == [0, 1, 3]
    assert made["pair_index_B"].tolist() == [0, 1, 0, 2]


def training_batches(world: TinyWorld, tokenizer: CachingTokenizer, **loading: Any) -> list[Batch]:
    examples = TASK.load(world.root, "train2014")
    features = open_features([world.train_features])
    targets = SampledAnswers(tokenizer, max_tokens=10, seed=1)
    schedule = Schedule(portions={"vqa": Portion(len(examples), 8)}, epochs=1)
    order = StepOrder({"vqa": range(len(examples))}, schedule, seed=1)
    batches = MixedBatches({"vqa": Batches(TASK, examples, features, tokenizer, targets)})
    return list(load_in_order(batches, order, **loading))


def test_batches_hold_features_and_ids_of_their_examples(
    world: TinyWorld, tokenizer: CachingTokenizer
) -> None:
    batches = training_batches(world, tokenizer, workers=0, pin_memory=False)
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 4]
    features = open_features([world.train_features])
    batch = batches[1]
    assert batch.features_BINF.shape == (8, 1, 4, 256)
    assert batch.features_BINF.dtype == torch.float16
    for row, example_id in enumerate(batch.example_ids):
        image = f"COCO_train2014_{int(example_id) // 1000:012d}"
        assert torch.equal(batch.features_BINF[row, 0], torch.from_numpy(features[image]))


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_give_the_same_batches(
    world: TinyWorld,
    tokenizer: CachingTokenizer,
    start_method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = training_batches(world, tokenizer, workers=0, pin_memory=False)
    loader = partial(DataLoader, multiprocessing_context=start_method)
    monkeypatch.setattr("vl_lst.data.batches.DataLoader", loader)
    shared = training_batches(world, tokenizer, workers=2, pin_memory=False)
    assert all(equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_an_error_in_a_worker_keeps_its_message(
    world: TinyWorld, tokenizer: CachingTokenizer
) -> None:
    """PyTorch would put the traceback of the worker into it."""
    examples = TASK.load(world.root, "val2014")
    batches = Batches(TASK, examples, open_features([world.train_features]), tokenizer)
    for workers in (0, 1):
        with pytest.raises(StoreError) as raised:
            list(load_in_order(batches, [[(0, 0)]], workers=workers, pin_memory=False))
        assert "\n" not in str(raised.value)


def test_at_most_one_worker_per_core_starts(
    world: TinyWorld, tokenizer: CachingTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch warns about more, and a recipe may come from a larger machine."""
    monkeypatch.setattr("vl_lst.data.batches.usable_cores", lambda: 1)
    asked: list[int] = []

    def loader(*batches: Any, num_workers: int, **options: Any) -> Any:
        asked.append(num_workers)
        return DataLoader(*batches, num_workers=0, **options)

    monkeypatch.setattr("vl_lst.data.batches.DataLoader", loader)
    training_batches(world, tokenizer, workers=4, pin_memory=False)
    assert set(asked) == {1}


def test_loading_does_not_use_the_global_generator(
    world: TinyWorld, tokenizer: CachingTokenizer
) -> None:
    """Dropout uses it, and must not depend on how often a loader was created."""
    before = torch.get_rng_state()
    training_batches(world, tokenizer, workers=0, pin_memory=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_blank_features_are_zeros_of_the_same_shape(world: TinyWorld) -> None:
    reader = open_features([world.train_features])
    blank = BlankFeatures(reader).read(["any", "thing"])
    assert blank.shape == (2, 4, 256)
    assert blank.dtype == reader.read([next(iter(reader))]).dtype
    assert not blank.any()
