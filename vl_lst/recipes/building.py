"""Build the model of a recipe, with exactly the method's parameters trainable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from feature_extraction.spec import FeatureSpec
from tasks import Head, Task, get_task
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import LoadedBackbone, load_backbone, load_stored_backbone
from vl_lst.backbones.quantization import BackbonePrecision, model_bytes, quantize
from vl_lst.backbones.random_weights import known_family
from vl_lst.backbones.states.reader import StateReader
from vl_lst.backbones.stored import StoredBackbone
from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.choices import QUANTIZED, OptimizerName
from vl_lst.errors import ModelError, RecipeError
from vl_lst.methods import get_method
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.low_rank import low_rank_factors
from vl_lst.models.side_model import SideModel
from vl_lst.models.untrained import UntrainedModel
from vl_lst.models.vision_language_model import VisionLanguageModel
from vl_lst.recipes.optimizer_defaults import require_low_rank_factors
from vl_lst.recipes.schema import Recipe
from vl_lst.recipes.stored_states import open_states, require_kept_states
from vl_lst.recipes.visual import require_own_features, visual_config
from vl_lst.recipes.zero_shot import ZeroShotRecipe

__all__ = [
    "BuiltModel",
    "attach_method",
    "build_model",
    "build_untrained_model",
    "load_backbone_alone",
    "load_unquantized",
    "require_heads",
]


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A model with its trainable parameters and tokenizer.

    Args:
        model: Model in which all parameters but `trainable` are frozen.
        trainable: Trainable parameters by name.
        fixed: Parameters of the method that the optimizer leaves at their random initial values.
        tokenizer: Tokenizer of the backbone.
        fingerprint: SHA-256 of the backbone's weights before quantization.
        fingerprint_bf16: See `LoadedBackbone`.
        precision: Precision of the backbone.
        states: File of the backbone's states; `None` if the backbone computes them.
    """

    model: VisionLanguageModel[Any]
    trainable: dict[str, nn.Parameter]
    tokenizer: CachingTokenizer
    fingerprint: str
    precision: BackbonePrecision
    fingerprint_bf16: str | None = None
    fixed: dict[str, nn.Parameter] = field(default_factory=dict)
    states: StateReader | None = None

    @property
    def stored(self) -> dict[str, nn.Parameter]:
        """Parameters that a checkpoint contains, by name."""
        return self.trainable | self.fixed

    def quantize_backbone(self) -> None:
        """Quantize the backbone if `precision` is int8 or nf4.

        Call this after the method's `initialise`, which may copy weights of the backbone.
        """
        if not isinstance(self.model.backbone, StoredBackbone):
            quantize(self.model.backbone, self.precision)

    def parameter_bytes(self) -> int:
        """Return the bytes of all parameters and buffers of the model."""
        return model_bytes(self.model)

    def checkpoint_bytes(self) -> int:
        """Return the bytes of the parameters that a checkpoint contains."""
        return sum(parameter.nbytes for parameter in self.stored.values())

    def parameter_count(self) -> int:
        """Return the number of parameters of the model, counting shared ones once.

        A backbone counts even if its states are read from a file.
        """
        backbone = self.model.backbone
        absent = backbone.num_absent_parameters if isinstance(backbone, StoredBackbone) else 0
        return absent + sum(parameter.numel() for parameter in self.model.parameters())

    def trainable_count(self) -> int:
        """Return the number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.trainable.values())


def require_heads(recipe: Recipe) -> None:
    """Refuse heads that the backbone does not have, before data are read.

    A backbone that must be downloaded is checked when it is loaded.

    Raises:
        RecipeError: A head generates, and the backbone has no decoder.
    """
    family = known_family(recipe.backbone.name)
    if family is None or family.has_decoder:
        return
    for name, head in recipe.head.items():
        if head != "generate":
            continue
        reason = f"the backbone {recipe.backbone.name} has an encoder only and cannot generate text"
        others = [other for other in get_task(name).heads if other != "generate"]
        if not others:
            raise RecipeError(
                f"{name} has no head but generate, and {reason}: expected an encoder-decoder"
            )
        raise RecipeError(
            f"head.{name}: found generate, and {reason}: expected {others[0]} (--head "
            f"{others[0]}), or an encoder-decoder as the backbone"
        )


def build_model(
    recipe: Recipe,
    spec: FeatureSpec | None,
    answers: Mapping[str, Sequence[str] | None],
    *,
    loads_backbone: bool = False,
) -> BuiltModel:
    """Load the backbone and attach the method.

    Initial weights depend only on the recipe's seed. If the recipe names a file of the backbone's
    states, the weights of the backbone are not loaded.

    Args:
        recipe: Recipe of the run.
        spec: Spec of the features that the model will read; `None` if no task has images.
        answers: Answer list of each task; `None` for a task that may generate any answer.
        loads_backbone: Whether to load the backbone even if its states are in a file.

    Raises:
        ModelError: The backbone cannot be loaded, or does not fit the settings.
        RecipeError: The visual section does not fit the backbone.
        StoreError: The backbone reads images, and the features are not of its own image encoder;
            or the file of states is not usable.
    """
    precision = recipe.backbone.precision
    states = None
    if recipe.states is None or loads_backbone:
        loaded = load_unquantized(recipe)
    else:
        states = open_states(recipe, spec)
        # Whether the image features are the backbone's own was checked when it read them.
        projection = None if spec is None else spec.projection_sha256
        loaded = load_stored_backbone(recipe.backbone.name, states, projection_sha256=projection)
    torch.manual_seed(recipe.training.seed)
    model, trainable = attach_method(
        recipe.method.name,
        recipe.method.options,
        loaded.backbone,
        visual=visual_config(recipe, loaded, spec),
        heads={
            task: _head_config(recipe.head[task], get_task(task), answers[task])
            for task in recipe.tasks
        },
        precision=precision,
        optimizer=recipe.optimizer.name,
    )
    if states is not None:
        assert isinstance(model, SideModel), "resolving requires it of the method"
        require_kept_states(states, model)
    _require_positions(recipe, model, 0 if spec is None else spec.tokens)
    declared = get_method(recipe.method.name).trainable(model)
    return BuiltModel(
        model,
        trainable,
        _tokenizer(loaded),
        loaded.fingerprint,
        precision,
        fingerprint_bf16=loaded.fingerprint_bf16,
        fixed={name: p for name, p in declared.items() if name not in trainable},
        states=states,
    )


def _head_config(kind: Head, task: Task, answers: Sequence[str] | None) -> HeadConfig:
    if kind == "classify":
        return HeadConfig(kind=kind, answers=len(answers or ()))
    return HeadConfig(kind=kind, value_range=task.value_range if kind == "regress" else None)


def _tokenizer(loaded: LoadedBackbone) -> CachingTokenizer:
    backbone = loaded.backbone
    if not backbone.has_decoder:
        return CachingTokenizer(loaded.tokenizer)
    return CachingTokenizer(
        loaded.tokenizer,
        start_token_id=backbone.start_token_id,
        forced_bos_token_id=backbone.forced_bos_token_id,
    )


def build_untrained_model(recipe: ZeroShotRecipe, spec: FeatureSpec | None) -> BuiltModel:
    """Load the backbone of a recipe as a model of its own, on the CPU.

    Args:
        recipe: Recipe of the run.
        spec: Spec of the features that a backbone that reads images will read, if known.

    Raises:
        ModelError: The backbone cannot be loaded, or has no decoder.
        StoreError: The backbone reads images, and the features are not of its own image encoder.
    """
    precision = recipe.backbone.precision
    loaded = load_unquantized(recipe)
    frozen = loaded.backbone
    if frozen.reads_images and spec is not None:
        require_own_features(loaded, recipe.backbone.name, spec)
    model = UntrainedModel(frozen.model, family=frozen.family, tasks=recipe.tasks)
    _require_positions(recipe, model, 0 if spec is None else spec.tokens)
    built = BuiltModel(
        model,
        {},
        _tokenizer(loaded),
        loaded.fingerprint,
        precision,
        fingerprint_bf16=loaded.fingerprint_bf16,
    )
    built.quantize_backbone()
    return built


def load_backbone_alone(recipe: Recipe) -> tuple[UntrainedModel, str]:
    """Load the backbone of a run as it was before training, on the CPU, in the run's precision.

    Returns:
        The backbone as a model without heads, and its fingerprint.

    Raises:
        ModelError: The backbone cannot be loaded, or has no decoder.
    """
    loaded = load_unquantized(recipe)
    frozen, precision = loaded.backbone, recipe.backbone.precision
    model = UntrainedModel(frozen.model, family=frozen.family, tasks=())
    quantize(model.backbone, precision)
    return model, loaded.fingerprint


def load_unquantized(recipe: Recipe) -> LoadedBackbone:
    """Load the backbone of a recipe, in bf16 if it will be quantized."""
    precision = recipe.backbone.precision
    is_quantized = precision in QUANTIZED
    return load_backbone(
        recipe.backbone.name,
        precision="bf16" if is_quantized else precision,
        vocabulary=recipe.backbone.vocabulary,
    )


def _require_positions(
    recipe: Recipe, model: VisionLanguageModel[Any], tokens_per_image: int
) -> None:
    """Refuse limits on prompts and answers that allow more tokens than the backbone has positions.

    Raises:
        ModelError: A prompt or an answer may be too long.
    """
    limit = model.backbone.max_positions
    if limit is None:
        return
    problem = f"the backbone has positions for {limit:,} tokens, and"
    for task in recipe.tasks:
        prompt = recipe.data.max_prompt_tokens[task]
        tokens = model.num_encoder_tokens(
            prompt, get_task(task).images_per_example, tokens_per_image
        )
        if tokens > limit:
            others = tokens - prompt
            fewer = (
                f"lower data.max_prompt_tokens.{task} to at most {limit - others:,}"
                if others < limit
                else "pass fewer image tokens (visual.pooled_grid) or choose another method"
            )
            rest = f" and {others:,} of images and the method" if others else ""
            raise ModelError(
                f"{problem} its encoder may read {tokens:,} for {task}: up to {prompt:,} of the "
                f"prompt{rest}; {fewer}"
            )
        answer = recipe.generation.max_length[task]
        if recipe.head[task] == "generate" and answer > limit:
            raise ModelError(
                f"{problem} its decoder may read {answer:,} for {task}: lower "
                f"generation.max_length.{task} to at most {limit:,}"
            )


def attach_method(
    name: str,
    options: Mapping[str, Any],
    backbone: FrozenBackbone,
    *,
    visual: VisualConfig | None,
    heads: Mapping[str, HeadConfig],
    precision: BackbonePrecision,
    optimizer: OptimizerName = "adamw",
) -> tuple[VisionLanguageModel[Any], dict[str, nn.Parameter]]:
    """Build the model of a method, and freeze all parameters but those that the method trains.

    Args:
        name: Name of the method.
        options: Options of the method, as in a recipe.
        backbone: Backbone to build on, not yet quantized.
        visual: Settings of the visual embedding; `None` if the backbone reads the images, or if
            there are none.
        heads: Settings of each task's head.
        precision: Precision in which the backbone will be kept; this function does not quantize.
        optimizer: Name of the optimizer; `lora-fa` trains less than the method does with others.

    Returns:
        The model, and its trainable parameters by name.

    Raises:
        ModelError: The method trains nothing for a task, it is defined for a quantized backbone
            only, or it declares parameters that cannot train.
        RecipeError: The optimizer does not fit the method.
    """
    method = get_method(name)
    require_low_rank_factors(optimizer, name)
    if method.needs_quantized_backbone and precision not in QUANTIZED:
        raise ModelError(
            f"the method {name} needs a quantized backbone: found backbone.precision {precision}, "
            f"expected {' or '.join(QUANTIZED)} (--backbone-precision {QUANTIZED[0]}), or another "
            "method"
        )
    for task, head in heads.items():
        if not method.trains(head, visual=visual):
            raise ModelError(
                f"the method {name} trains nothing for {task}, since the head is {head.kind} and "
                "there is no visual embedding: expected another head (--head classify, or regress "
                "for numbers), or another method"
            )
    model = method.attach(
        backbone, method.options.model_validate(dict(options)), visual=visual, heads=heads
    )
    model.requires_grad_(False)
    trainable = method.trainable(model)
    _require_trainable(name, model, trainable)
    if optimizer == "lora-fa":
        fixed = {id(factors.first) for factors in low_rank_factors(model)}
        trainable = {name: p for name, p in trainable.items() if id(p) not in fixed}
    for parameter in trainable.values():
        parameter.requires_grad_(True)
    return model, trainable


def _require_trainable(
    method: str, model: VisionLanguageModel[Any], trainable: Mapping[str, nn.Parameter]
) -> None:
    """Refuse a declaration of trainable parameters that does not match what would train.

    Raises:
        ModelError: A declared parameter does not exist or cannot train, or a head is missing.
    """
    known = dict(model.named_parameters())
    frozen = "backbone." if isinstance(model.backbone, FrozenBackbone) else None
    problem: str | None = None
    for name, parameter in trainable.items():
        if known.get(name) is not parameter:
            problem = f"{name!r}, which is no parameter of the model with that name"
        elif frozen and name.startswith(frozen):
            problem = f"{name!r}, which belongs to a backbone that runs without gradients"
        elif parameter.dtype != torch.float32:
            problem = f"{name!r} in {parameter.dtype}; what trains must be float32"
    chosen = {id(parameter) for parameter in trainable.values()}
    for parameters in model.own_parameters():
        if any(id(parameter) not in chosen for parameter in parameters):
            problem = "not all of the visual embedding and the heads, which train in every method"
    if problem:
        raise ModelError(f"the method {method} declares as trainable {problem}")
