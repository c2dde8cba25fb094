"""Batches of every task have the documented shapes."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks import Example, Task, get_task, task_names
from vl_lst.backbones.backbone import IGNORED
from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.data.batches import Batches
from vl_lst.data.targets import AnswerScores, AnswerValues, SampledAnswers, Targets
from vl_lst.models.batch import Batch

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
FEATURES, CHANNELS = 4, 8
ANSWERS = ("yes", "no", "true", "false")


class Words:
    """Tokenizer whose token ids are lengths of words."""

    pad_token_id = 0
    eos_token_id = 1

    def __call__(self, text: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[2 + len(word) for word in text.split()])


class NumberedFeatures:
    """Features of which those of the n-th image all equal n."""

    def read(self, image_ids: Sequence[str]) -> NDArray[np.float16]:
        numbers = np.arange(len(image_ids), dtype=np.float16)
        return np.broadcast_to(numbers[:, None, None], (len(numbers), FEATURES, CHANNELS)).copy()


@pytest.fixture(params=task_names())
def task(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setenv("VL_LST_CACHE", str(tmp_path / "cache"))
    return get_task(request.param)


def batch_of(task: Task, targets: Targets | None) -> tuple[Batch, list[Example]]:
    root = FIXTURES / task.name
    split = json.loads((root / "suite.json").read_text(encoding="utf-8"))["split"]
    examples = task.load(root, split)
    listed = [example for example in examples if example.targets]
    if not listed:
        pytest.skip(f"{task.name} has no public answers")
    rows = [row for row in range(len(examples)) if examples[row].targets]
    features = NumberedFeatures() if task.images_per_example else None
    batches = Batches(task, examples, features, CachingTokenizer(Words()), targets)
    return batches[[(0, row) for row in rows]], listed


@pytest.mark.parametrize("head", ["classify", "generate", "regress", None])
def test_a_batch_has_the_documented_shapes(task: Task, head: str | None) -> None:
    if head is not None and head not in task.heads:
        pytest.skip(f"{task.name} has no such head")
    sampled = SampledAnswers(CachingTokenizer(Words()), max_tokens=task.max_answer_tokens, seed=0)
    targets = {
        "classify": AnswerScores(ANSWERS),
        "generate": sampled,
        "regress": AnswerValues(),
        None: None,
    }[head]
    batch, examples = batch_of(task, targets)
    count, images = len(examples), task.images_per_example
    assert (len(batch), batch.task) == (count, task.name)
    assert batch.example_ids == tuple(example.id for example in examples)

    if images:
        assert batch.features_BINF.shape == (count, images, FEATURES, CHANNELS)
        order = batch.features_BINF[:, :, 0, 0].flatten().tolist()
        assert order == list(range(count * images)), "an image is at another example's place"
    else:
        assert batch.features_BINF is None

    distinct, tokens = batch.prompt_ids_UT.shape
    assert distinct == len({example.prompt for example in examples})
    assert tokens <= task.max_prompt_tokens
    assert batch.prompt_index_B.shape == (count,)
    assert set(batch.prompt_index_B.tolist()) == set(range(distinct))

    if head == "classify":
        assert batch.scores_BA.shape == (count, len(ANSWERS))
        assert ((batch.scores_BA >= 0) & (batch.scores_BA <= 1)).all()
    else:
        assert batch.scores_BA is None
    if head == "regress":
        assert batch.values_B.tolist() == pytest.approx(
            [float(example.targets[0][0]) for example in examples]
        )
    else:
        assert batch.values_B is None
    if head == "generate":
        assert batch.labels_BL.shape[0] == count
        assert batch.labels_BL.shape[1] <= task.max_answer_tokens
        assert (batch.labels_BL[:, 0] != IGNORED).all()
        assert batch.weights_B.shape == batch.pair_index_B.shape == (count,)
        assert batch.pair_rows_P.shape == (int(batch.pair_index_B.max()) + 1,)
    else:
        assert batch.labels_BL is None
