"""Compare the model with tensors recorded from the reference implementation.

    python benchmarks/reference_parity.py --fixtures DIR --json OUT

Every `NAME.safetensors` with its `NAME.json` in DIR is one fixture. The result is
`{fixture: {"max_abs": {quantity: number}, "max_rel_grad": number, "trainable_equal": bool,
"greedy_equal": bool, "beam_equal": bool}}`. A fixture that cannot be compared is
`{"skipped": reason}`; pruning fixtures have their own quantities. A quantity that a fixture does
not hold is null.

By default, the backbone uses unfused attention and two threads, the order of operations of the
recorded run. Fused attention (`--attention sdpa`, as in training), another number of threads or
another processor rounds differently, by up to a few times 1e-5. With `--precision float64` the
remaining difference is almost entirely the recording's own rounding and hardly depends on the
machine.
"""

import argparse
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from _reference_baselines import (
    MODES,
    baseline_namer,
    build_baseline,
    order_gradient,
    unsupported_setting,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.errors import CheckpointError, ModelError
from vl_lst.generation.search import beam_search, greedy_search
from vl_lst.models.batch import Batch
from vl_lst.models.initialisation.pruning import (
    fisher_importance,
    magnitude_importance,
    prune_backbone,
)
from vl_lst.models.joint import JointModel
from vl_lst.models.ladder.model import LadderModel
from vl_lst.models.losses import answer_loss, average_token_losses
from vl_lst.models.reference_checkpoint import from_reference, reference_names, reference_pieces
from vl_lst.models.vision_language_model import VisionLanguageModel

BEAMS = 5
ROUNDING = 1e-6
RECORDED_THREADS = 2
CPU = torch.device("cpu")
LOSS_AVERAGE = {"vqa": "examples", "nlvr": "examples", "caption": "tokens"}


def image_count(tensors: Mapping[str, Tensor]) -> int:
    """Return the number of images per recorded example."""
    return int(tensors["in.img_order_ids"].max()) + 1 if "in.img_order_ids" in tensors else 1


def fixture_batch(tensors: Mapping[str, Tensor]) -> Batch:
    """Return the recorded inputs as a batch, with a dimension for the images of an example."""
    prompt_ids_UT = tensors["in.input_ids"]
    features, rows, device = tensors.get("in.vis_feats"), len(prompt_ids_UT), prompt_ids_UT.device
    if features is not None:
        features = features.view(rows, image_count(tensors), -1, features.shape[-1])
    return Batch(
        features_BINF=features,
        prompt_ids_UT=prompt_ids_UT,
        prompt_index_B=torch.arange(rows, device=device),
        labels_BL=tensors["in.labels"],
        weights_B=tensors.get("in.scores", torch.ones(rows, device=device)),
        scores_BA=tensors.get("in.targets"),
    )


def give_boxes(model: VisionLanguageModel[Any], tensors: Mapping[str, Tensor]) -> None:
    """Make a visual embedding read the recorded boxes, which features of this package lack."""
    if model.visual is None:
        return
    boxes = tensors["in.boxes"]
    boxes_BIM4 = boxes.view(boxes.shape[0], image_count(tensors), -1, 4)
    boxes_BIM4 = boxes_BIM4[:, :, : len(model.visual.order_MD)]

    def add_boxes(visual: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*inputs, boxes_BIM4)

    model.visual.register_forward_pre_hook(add_boxes)


def ladder_outputs(model: LadderModel, batch: Batch) -> dict[str, Tensor]:
    """Return logits and final states of both networks."""
    encoded = model.encode(batch)
    assert batch.labels_BL is not None
    decoder_ids = model.backbone.shift_right(batch.labels_BL)
    side_states: list[Tensor] = []
    handle = model.side_decoder.register_forward_hook(
        lambda _module, _inputs, output: side_states.append(output)
    )
    states = model.decode(encoded, decoder_ids, None, None)
    handle.remove()
    memory, memory_mask = encoded.backbone_memory()
    decoder_final = model.backbone.decode(
        decoder_ids, [], encoder_states_PTD=memory, encoder_mask_PT=memory_mask
    ).final_PLD
    return {
        "logits": model.logits(states),
        "enc_side_last_hidden": encoded.side_BSR,
        "dec_side_last_hidden": side_states[0],
        "enc_backbone_last_hidden": encoded.taps.final_UTD,
        "dec_backbone_last_hidden": decoder_final,
    }


def baseline_outputs(model: JointModel, batch: Batch) -> dict[str, Tensor]:
    """Return logits and final states of a backbone that reads text and image."""
    encoded = model.encode(batch)
    assert batch.labels_BL is not None
    states = model.decode(encoded, model.backbone.shift_right(batch.labels_BL))
    ours = {
        "logits": model.logits(states),
        "enc_backbone_last_hidden": encoded.states_BSD,
        "dec_backbone_last_hidden": states,
    }
    if batch.scores_BA is not None:
        logits_BA = model.classify(batch)
        ours["cls_head_input"] = model.start_states(encoded)
        ours["cls_logit"] = logits_BA
        # The reference averages over answers, this package sums.
        ours["cls_loss"] = answer_loss(logits_BA, batch.scores_BA) / logits_BA.shape[1]
    return ours


def compare_outputs(
    model: VisionLanguageModel[Any], batch: Batch, tensors: Mapping[str, Tensor], task: str
) -> dict[str, float | None]:
    """Return the maximum absolute difference of each recorded output; fills in gradients."""
    if isinstance(model, LadderModel):
        ours = ladder_outputs(model, batch)
    else:
        assert isinstance(model, JointModel)
        ours = baseline_outputs(model, batch)
    labels = batch.labels_BL
    assert labels is not None
    assert batch.weights_B is not None
    losses = model.token_losses(batch)
    ours["loss_per_token"] = losses.flatten()
    ours["loss"] = average_token_losses(losses, labels, batch.weights_B, over="tokens")
    if task in LOSS_AVERAGE:
        ours[f"{task}_train_step_loss"] = average_token_losses(
            losses, labels, batch.weights_B, over=LOSS_AVERAGE[task]
        )
    ours.get("cls_loss", losses.sum()).backward()
    return {
        name: largest_difference(value, tensors.get(f"out.{name}")) for name, value in ours.items()
    }


def largest_difference(ours: Tensor, recorded: Tensor | None) -> float | None:
    """Return the maximum absolute difference; `None` if nothing was recorded."""
    return None if recorded is None else float((ours.detach() - recorded).abs().max())


def compare_ladder_gradients(model: LadderModel, tensors: Mapping[str, Tensor]) -> float | None:
    """Return the maximum difference of gradients, relative to each gradient's largest entry.

    Parameters are as the optimizer sees them: the gates of a stack are one vector, its rungs one
    stacked weight. (The gradient of a single gate is a difference of large sums, of which the
    recording itself has fewer digits.)
    """
    recorded = {k.removeprefix("grad."): v for k, v in tensors.items() if k.startswith("grad.")}
    if not recorded:
        return None
    differences: dict[str, float] = {}
    scales: dict[str, float] = {}
    parameters = model.trainable()
    for piece in reference_pieces(model):
        if piece.reference not in recorded:
            continue
        gradient = parameters[piece.name].grad
        assert gradient is not None, f"{piece.name} got no gradient"
        theirs = recorded[piece.reference]
        difference = float((piece.read(gradient) - theirs).abs().max())
        differences[piece.name] = max(differences.get(piece.name, 0.0), difference)
        scales[piece.name] = max(scales.get(piece.name, 0.0), float(theirs.abs().max()))
    return max(d / scales[n] if scales[n] else d for n, d in differences.items())


def compare_baseline_gradients(
    model: JointModel,
    trainable: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    rename: Callable[[str], str],
    zeros: Collection[str],
) -> float:
    """Return the same for a baseline method; gradients that were not recorded are ignored.

    A gradient that is zero up to rounding, such as that of an attention key bias, is compared in
    absolute terms. Recordings of text alone list such `zeros`.
    """
    largest = max(float(v.abs().max()) for k, v in tensors.items() if k.startswith("grad."))
    worst = 0.0
    for name, parameter in trainable.items():
        theirs = tensors.get(f"grad.{rename(name)}")
        if theirs is None:
            continue
        assert parameter.grad is not None, f"{name} got no gradient"
        ours = parameter.grad
        if rename(name) == "shared.weight" and model.visual is not None:
            ours = ours + order_gradient(model)
        scale = float(theirs.abs().max())
        difference = float((ours - theirs).abs().max())
        is_zero = rename(name) in zeros or scale <= ROUNDING * largest
        worst = max(worst, difference if is_zero else difference / scale)
    return worst


def compare_ids(ours: Tensor, recorded: Tensor | None) -> bool | None:
    """Return whether two generations agree up to padding."""
    if recorded is None:
        return None
    width = max(ours.shape[1], recorded.shape[1])
    padded = [torch.nn.functional.pad(ids, (0, width - ids.shape[1])) for ids in (ours, recorded)]
    return torch.equal(*padded)


def compare_pruning(tensors: Mapping[str, Tensor], description: Any) -> dict[str, object]:
    """Return differences in importances, kept rows and pruned weights of a pruning fixture."""
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    config = T5Config(**description["config"])
    t5 = T5ForConditionalGeneration(config)
    t5.load_state_dict({name: state.get(name, state["shared.weight"]) for name in t5.state_dict()})
    samples = [
        (tensors[f"in.sample{n}.input_ids"], tensors[f"in.sample{n}.target_ids"])
        for n in range(description["fisher_num_samples"])
    ]
    fisher = fisher_importance(FrozenBackbone(t5), samples)
    reduction = description["reduction_factor"]
    pruned = {
        "mag": prune_backbone(state, magnitude_importance(state), config, reduction),
        "fisher": prune_backbone(state, fisher, config, reduction),
    }
    ours = {f"fisher.{name}": importance for name, importance in fisher.items()}
    for kind, result in pruned.items():
        ours |= {f"pruned_{kind}.{name}": weight for name, weight in result.weights.items()}
    max_abs: dict[str, float] = {}
    for name, recorded in tensors.items():
        quantity = name.partition(".")[0]
        if quantity in ("fisher", "pruned_mag", "pruned_fisher"):
            difference = largest_difference(ours[name], recorded)
            max_abs[quantity] = max(max_abs.get(quantity, 0.0), difference or 0.0)
    kept = {f"keep_{kind}": r.kept == description[f"keep_{kind}"] for kind, r in pruned.items()}
    return {"max_abs": max_abs, "kept_rows_equal": kept}


def compare_fixture(
    path: Path, attention: str, precision: torch.dtype, device: torch.device = CPU
) -> dict[str, object]:
    """Return all comparisons of a fixture."""
    description = json.loads(path.with_suffix(".json").read_text())
    if "keep_fisher" in description:
        return compare_pruning(load_file(path), description)
    mode = description.get("mode", "not stated")
    if mode != "lst" and mode not in MODES:
        return {"skipped": f"the fixture's mode is {mode}; this program has none of that name"}
    recorded = {
        name: tensor.to(precision) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }
    state = {k.removeprefix("state."): v for k, v in recorded.items() if k.startswith("state.")}
    tensors = {name: tensor.to(device) for name, tensor in recorded.items()}
    padding = description["config"]["pad_token_id"]
    mask = tensors.get("in.attention_mask")
    if mask is not None and not torch.equal(mask, (tensors["in.input_ids"] != padding).to(mask)):
        return {"skipped": "the fixture's mask hides other tokens than padding"}
    if mode != "lst":
        if unsupported := unsupported_setting(description):
            return {"skipped": unsupported}
        return compare_baseline(description, state, tensors, attention)
    try:
        model = from_reference(state, description["config"], attention=attention)
    except (CheckpointError, ModelError) as error:
        return {"skipped": str(error)}
    model.eval().to(device, precision)
    batch = fixture_batch(tensors)
    give_boxes(model, tensors)
    generated = compare_generation(model, batch, tensors, description)
    max_abs = compare_outputs(model, batch, tensors, str(description.get("task")))
    return {
        "max_abs": max_abs | generated.pop("max_abs"),
        "max_rel_grad": compare_ladder_gradients(model, tensors),
        "trainable_equal": reference_names(model) == set(description["trainable"]),
        **generated,
    }


def compare_baseline(
    description: Any, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], attention: str
) -> dict[str, object]:
    """Return all comparisons of a fixture without a side network."""
    try:
        model, trainable = build_baseline(description, state, attention=attention)
    except ModelError as error:
        return {"skipped": str(error)}
    model.to(tensors["in.input_ids"].device)
    batch = fixture_batch(tensors)
    give_boxes(model, tensors)
    generated = compare_generation(model, batch, tensors, description)
    max_abs = compare_outputs(model, batch, tensors, str(description.get("task")))
    # Heads train here, while the reference leaves its answer head frozen.
    rename = baseline_namer(description)
    names = {rename(name) for name in trainable if not name.startswith("classifiers.")}
    return {
        "max_abs": max_abs | generated.pop("max_abs"),
        "max_rel_grad": compare_baseline_gradients(
            model, trainable, tensors, rename, description.get("zero_up_to_rounding_trainable", ())
        ),
        "trainable_equal": names == set(description["trainable"]),
        **generated,
    }


def compare_generation(
    model: VisionLanguageModel[Any], batch: Batch, tensors: Mapping[str, Tensor], description: Any
) -> dict[str, Any]:
    """Compare greedy and beam search."""
    max_length = int(description.get("gen_info", {}).get("max_length", 20))
    greedy_ids = greedy_search(model, batch, max_length=max_length)
    compared: dict[str, Any] = {
        "max_abs": {"beam5_scores": None},
        "greedy_equal": compare_ids(greedy_ids, tensors.get("out.greedy_ids")),
        "beam_equal": None,
    }
    if "out.beam5_ids" in tensors:
        beam_ids, scores = beam_search(model, batch, max_length=max_length, beams=BEAMS)
        difference = largest_difference(scores, tensors.get("out.beam5_scores"))
        compared["max_abs"] = {"beam5_scores": difference}
        compared["beam_equal"] = compare_ids(beam_ids, tensors["out.beam5_ids"])
    return compared


def main() -> None:
    """Compare every fixture of a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fixtures", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT")
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="eager")
    parser.add_argument("--precision", choices=("float32", "float64"), default="float32")
    arguments = parser.parse_args()
    paths = sorted(arguments.fixtures.glob("*.safetensors"))
    if not paths:
        parser.error(f"no *.safetensors in {arguments.fixtures}")
    torch.set_num_threads(RECORDED_THREADS)
    precision: torch.dtype = getattr(torch, arguments.precision)
    results = {path.stem: compare_fixture(path, arguments.attention, precision) for path in paths}
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
