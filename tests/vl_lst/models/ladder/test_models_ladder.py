"""Properties of the ladder model that hold for any weights."""

from dataclasses import replace

import pytest
import torch

from vl_lst.errors import ModelError
from vl_lst.models.batch import Batch, unique_rows
from vl_lst.models.config import LadderConfig, VisualConfig
from vl_lst.models.ladder.relative_bias import relative_position_bucket
from vl_lst.models.losses import vocabulary_losses
from vl_lst.models.visual import VisualEmbedding, pool_grid
from vl_lst.training.saved_bytes import bytes_saved_for_backward


def unshare_texts(batch: Batch) -> Batch:
    rows = torch.arange(len(batch))
    return replace(
        batch,
        prompt_ids_UT=batch.prompt_ids_UT[batch.prompt_index_B],
        prompt_index_B=rows,
        pair_rows_P=rows,
        pair_index_B=rows,
    )


def gradients(model, batch: Batch) -> dict[str, torch.Tensor]:
    parameters = model.trainable()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    model(batch).backward()
    return {name: p.grad for name, p in parameters.items()}


@pytest.mark.parametrize("head", ["generate", "classify"])
def test_sharing_equal_prompts_changes_nothing(make_model, make_batch, head: str) -> None:
    batch = make_batch()
    assert len(batch.prompt_ids_UT) < len(batch)
    shared = gradients(make_model(head), batch)
    unshared = gradients(make_model(head), unshare_texts(batch))
    for name, gradient in shared.items():
        torch.testing.assert_close(gradient, unshared[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", ["generate", "classify"])
@pytest.mark.parametrize("gated", [False, True], ids=["v1.0", "v1.1"])
def test_every_trainable_parameter_gets_a_gradient(make_model, make_batch, head, gated) -> None:
    model = make_model(head, gated=gated)
    found = gradients(model, make_batch())
    assert all(gradient is not None for gradient in found.values())
    assert not any(p.requires_grad for p in model.backbone.parameters())


@pytest.mark.parametrize("head", ["generate", "classify"])
def test_the_answer_depends_on_the_image(make_model, make_batch, head: str) -> None:
    """In the reference, the classifier reads the frozen backbone, which does not see the image."""
    model, batch = make_model(head), make_batch()
    other = replace(batch, features_BINF=batch.features_BINF + 1)
    assert not torch.allclose(model(batch), model(other))


def test_recomputing_saves_bytes_and_keeps_the_gradients(make_model, make_batch) -> None:
    batch = make_batch()
    recomputing, saving = make_model(recompute=True), make_model(recompute=False)
    for (name, one), other in zip(
        gradients(recomputing, batch).items(), gradients(saving, batch).values(), strict=True
    ):
        torch.testing.assert_close(one, other, msg=name)
    saved = [
        bytes_saved_for_backward(m, lambda m=m: m(batch))["total"] for m in (recomputing, saving)
    ]
    assert saved[0] < 0.5 * saved[1]


def test_padding_a_prompt_changes_nothing(make_model, make_batch) -> None:
    model, batch = make_model(), make_batch()
    wider = torch.nn.functional.pad(batch.prompt_ids_UT, (0, 3))
    torch.testing.assert_close(model(batch), model(replace(batch, prompt_ids_UT=wider)))


def test_a_token_does_not_attend_to_later_tokens(make_model, make_batch) -> None:
    model, batch = make_model(), make_batch()
    changed = batch.labels_BL.clone()
    changed[:, -1] = 7
    one, other = (
        model.token_losses(batch),
        model.token_losses(replace(unshare_texts(batch), labels_BL=changed)),
    )
    torch.testing.assert_close(one[:, :-1], other[:, :-1], rtol=1e-4, atol=1e-5)


def test_image_order_distinguishes_two_images(make_model, make_batch) -> None:
    model, batch = make_model(), make_batch(images=2)
    swapped = replace(batch, features_BINF=batch.features_BINF.flip(1))
    tokens, others = model.visual(batch.features_BINF), model.visual(swapped.features_BINF)
    assert not torch.allclose(tokens.flip(1), others.flip(1))
    difference = tokens[:, :4] - others[:, 4:]
    expected = model.visual.image_order.weight[0] - model.visual.image_order.weight[1]
    torch.testing.assert_close(difference, expected.expand_as(difference), rtol=1e-3, atol=1e-5)


def test_dropped_layers_have_no_rung_and_no_block(make_model, make_batch) -> None:
    model = make_model(encoder_layers=(0, 2), decoder_layers=(1,))
    assert model.side.encoder.rungs.weight.shape[0] == len(model.side.encoder.blocks) == 2
    assert len(model.side.decoder.blocks) == 1
    assert torch.isfinite(model(make_batch()))


@pytest.mark.parametrize(
    ("ladder", "message"),
    [
        ({"reduction": 3}, "does not divide"),
        ({"encoder_layers": (0, 7)}, "not ascending, distinct layers"),
        ({"decoder_layers": (1, 0)}, "not ascending, distinct layers"),
    ],
)
def test_settings_that_do_not_fit_the_backbone_are_refused(make_model, ladder, message) -> None:
    with pytest.raises(ModelError, match=message):
        make_model(**ladder)


def test_a_grid_that_is_not_square_cannot_be_pooled() -> None:
    with pytest.raises(ModelError, match="pooled_grid to null"):
        VisualConfig(channels=4, tokens=50)


def test_pooling_takes_the_maximum_of_overlapping_windows() -> None:
    grid = torch.arange(49.0).view(1, 1, 49, 1)
    assert pool_grid(grid, 7, 6).flatten().tolist() == [
        float((row + 1) * 7 + column + 1) for row in range(6) for column in range(6)
    ]


def test_the_grid_of_each_crop_is_pooled_separately() -> None:
    features = torch.randn(2, 2, 5 * 49, 3)
    each = [pool_grid(crop, 7, 6) for crop in features.split(49, dim=2)]
    assert torch.equal(pool_grid(features, 7, 6), torch.cat(each, 2))
    config = VisualConfig(channels=3, tokens=5 * 49, grids=5)
    assert config.pooled_tokens == 5 * 36
    embedded = VisualEmbedding(config, width=8, epsilon=1e-6)(features)
    assert embedded.shape == (2, 2 * 5 * 36, 8)
    with pytest.raises(ModelError, match="of 5 crops.*pooled_grid to null"):
        VisualConfig(channels=3, tokens=5 * 25, grids=5)


def test_vocabulary_losses_equal_cross_entropy_without_saving_logits(monkeypatch) -> None:
    monkeypatch.setattr("vl_lst.models.losses.MAX_LOGITS_BYTES", 4 * 11 * 3)
    states = torch.randn(10, 6, requires_grad=True)
    weight, targets = torch.randn(11, 6), torch.randint(0, 11, (10,))
    targets[3] = -100
    upstream = torch.rand(10)
    losses = vocabulary_losses(states, weight, targets)
    (slope,) = torch.autograd.grad(losses @ upstream, states)
    expected = torch.nn.functional.cross_entropy(states @ weight.T, targets, reduction="none")
    (expected_slope,) = torch.autograd.grad(expected @ upstream, states)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(slope, expected_slope)
    saved = bytes_saved_for_backward(
        torch.nn.Identity(), lambda: vocabulary_losses(states, weight, targets)
    )
    assert saved["total"] == states.numel() * 4


def test_buckets_are_those_of_t5() -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    offsets = torch.arange(-300, 301)
    for bidirectional in (True, False):
        for buckets, distance in ((32, 128), (16, 40)):
            ours = relative_position_bucket(
                offsets, bidirectional=bidirectional, buckets=buckets, max_distance=distance
            )
            stock = T5Attention._relative_position_bucket(offsets, bidirectional, buckets, distance)
            assert torch.equal(ours, stock)


def test_unique_rows_maps_every_row() -> None:
    rows = torch.tensor([[1, 2], [3, 4], [1, 2], [0, 0]])
    first, index = unique_rows(rows)
    assert first.tolist() == [0, 1, 3]
    assert torch.equal(rows[first][index], rows)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ModelError, match="no field 'reducton': expected one of reduction, enc"):
        LadderConfig(reducton=4)  # type: ignore[call-arg]


def test_defaults_are_the_papers() -> None:
    config = LadderConfig()
    assert (config.reduction, config.gate_temperature) == (4, 0.1)


def test_more_images_than_the_model_was_built_for_are_refused(make_model, make_batch) -> None:
    with pytest.raises(ModelError, match="at most 2 images per example: found 3"):
        make_model()(make_batch(images=3))
