"""Options of Ladder Side-Tuning: invalid values, initialisation, dropout in the backbone."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from vl_lst.methods.lst import METHOD, Initialisation, LadderOptions
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.ladder.model import LadderModel


def attach(make_backbone: Any, **options: object) -> tuple[LadderModel, LadderOptions]:
    chosen = LadderOptions.model_validate({"reduction": 2, "dropout": 0.0, **options})
    torch.manual_seed(0)
    model = METHOD.attach(
        make_backbone(),
        chosen,
        visual=VisualConfig(channels=8, tokens=9, pooled_grid=2),
        heads={"task": HeadConfig(kind="generate")},
    )
    return model, chosen


def samples(available: int) -> Any:
    for number in range(available):
        yield torch.tensor([[5, 9 + number, 1]]), torch.tensor([[7, 1]])
    raise AssertionError("more samples were taken than initialisation_samples")


@pytest.mark.parametrize("kind", get_args(Initialisation))
def test_every_initialisation_gives_other_weights(make_backbone, make_batch, kind) -> None:
    initial: dict[str, Tensor] = {}
    for other in {kind, *get_args(Initialisation)}:
        model, options = attach(
            make_backbone, initialisation=other, initialisation_samples=3, rungs="linear"
        )
        METHOD.initialise(model, options, samples(4))
        initial[other] = torch.cat([p.detach().flatten() for p in model.trainable().values()])
        assert torch.isfinite(model(make_batch()))
    assert not any(torch.equal(initial[kind], initial[o]) for o in initial if o != kind)


@pytest.mark.parametrize("kind", ["random", "magnitude", "coherent_magnitude"])
def test_initialisations_without_texts_take_no_samples(make_backbone, kind) -> None:
    model, options = attach(make_backbone, initialisation=kind, rungs="linear")
    METHOD.initialise(model, options, samples(0))


@pytest.mark.parametrize("rungs", ["pool", "normalised"])
@pytest.mark.parametrize("kind", ["coherent_magnitude", "coherent_fisher", "principal"])
def test_coherent_initialisations_require_linear_rungs(kind: str, rungs: str) -> None:
    with pytest.raises(
        ValidationError, match=f"rungs is {rungs} and initialisation is {kind}.*expected rungs"
    ):
        LadderOptions.model_validate({"rungs": rungs, "initialisation": kind})


def test_backbone_dropout_applies_only_in_training_and_if_set(make_backbone) -> None:
    ids = torch.randint(2, 60, (1, 6))

    def differs(model: LadderModel) -> bool:
        first, second = (model.backbone.encode(ids, [0, 1, 2]).blocks_KUTD for _ in range(2))
        assert not first.requires_grad
        return not torch.equal(first, second)

    quiet, _ = attach(make_backbone)
    noisy, _ = attach(make_backbone, backbone_dropout=0.3)
    assert not differs(quiet.train())
    assert differs(noisy.train())
    assert not differs(noisy.eval())
    expected = quiet.backbone.encode(ids, [0]).final_UTD
    assert torch.equal(noisy.backbone.encode(ids, [0]).final_UTD, expected)


def test_equal_prompts_do_not_share_dropout(make_backbone, make_batch, monkeypatch) -> None:
    model, _ = attach(make_backbone, backbone_dropout=0.3)
    batch = make_batch()
    seen: list[int] = []
    encode, decode = model.backbone.encode, model.backbone.decode
    monkeypatch.setattr(
        model.backbone,
        "encode",
        lambda ids, *rest: (seen.append(len(ids)), encode(ids, *rest))[1],
    )
    monkeypatch.setattr(
        model.backbone,
        "decode",
        lambda ids, layers, **rest: (seen.append(len(ids)), decode(ids, layers, **rest))[1],
    )
    model.train()(batch)
    assert seen == [len(batch)] * 2
    model.eval()(batch)
    assert seen[2:] == [len(batch.prompt_ids_UT), len(batch.pair_rows_P)]


def test_unsharing_prompts_changes_nothing(make_model, make_batch) -> None:
    model, batch = make_model(), make_batch()
    unshared = batch.unshare()
    assert len(unshared.prompt_ids_UT) == len(batch)
    torch.testing.assert_close(model(unshared), model(batch))
    assert replace(batch, pair_rows_P=None, pair_index_B=None).unshare().pair_rows_P is None
