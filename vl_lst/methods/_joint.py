"""Base class of methods that change the backbone.

Such a method defines what it inserts into the backbone and which parameters train; the visual
embedding and the heads train in every method.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Generic, TypeVar, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.methods import Method
from vl_lst.models.config import HeadConfig, Recompute, VisualConfig
from vl_lst.models.joint import JointBackbone, JointModel
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["JointMethod", "JointOptions", "train_modules"]


class JointOptions(BaseModel):
    """Options of every method that changes the backbone.

    Args:
        dropout: Dropout probability in the backbone while training; 0.1 as in the paper's code.
        recompute: Save only the input of each block of the backbone for the backward pass and
            recompute the rest (gradient checkpointing); trades a forward pass for most of the
            memory. `auto` does so where a step that keeps everything does not fit the memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dropout: float = Field(0.1, ge=0, lt=1)
    recompute: Recompute = "auto"


Options = TypeVar("Options", bound=JointOptions)


class JointMethod(Method, Generic[Options]):
    """Method that backpropagates through a backbone that reads image tokens."""

    options: type[BaseModel] = JointOptions

    def insert(self, model: JointModel, options: Options) -> None:
        """Insert the method's modules; by default, none.

        Called again whenever a run is loaded: what it computes from frozen weights must be the
        same each time.

        Args:
            model: Backbone with a visual embedding and heads.
            options: Options of the method.
        """

    @abstractmethod
    def tuned(self, model: JointModel) -> Iterable[nn.Parameter]:
        """Return the parameters that train besides the visual embedding and the heads.

        Those of `JointModel.tuned_modules` train without being returned.
        """

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig | None,
        heads: Mapping[str, HeadConfig],
    ) -> JointModel:
        """Build a model whose encoder reads image tokens, and insert the method's modules."""
        settings = cast(Options, options)
        joint = JointBackbone(
            backbone.model,
            dropout=settings.dropout,
            recompute=settings.recompute is not False,
            family=backbone.family,
        )
        model = JointModel(joint, visual=visual, head=heads)
        self.insert(model, settings)
        return model

    def trainable(self, model: VisionLanguageModel[Any]) -> dict[str, nn.Parameter]:
        """Return the visual embedding, the heads and the tuned parameters that the heads use."""
        assert isinstance(model, JointModel)
        tuned = [*self.tuned(model), *(p for m in model.tuned_modules for p in m.parameters())]
        known = {id(parameter) for parameter in model.parameters()}
        if not tuned or any(id(parameter) not in known for parameter in tuned):
            raise ModelError(
                f"`tuned` of {type(self).__name__} yields "
                f"{'something that is not a parameter of the model' if tuned else 'nothing'}; "
                "expected the parameters that the method trains, each registered with a module"
            )
        chosen = {
            id(parameter)
            for parameters in (*model.own_parameters(), tuned)
            for parameter in parameters
        }
        chosen -= {id(parameter) for parameter in _unused(model)}
        return {name: p for name, p in model.named_parameters() if id(p) in chosen}


def train_modules(model: JointModel, modules: Iterable[nn.Module]) -> None:
    """Let whole modules of the backbone train, in float32.

    Args:
        model: Model with the backbone.
        modules: Modules with one input and one output, which keeps its precision.
    """
    for module in modules:
        model.tuned_modules.append(module)
        dtype = next(module.parameters()).dtype
        if dtype != torch.float32:
            module.float()
            module.register_forward_pre_hook(_convert_input)
            module.register_forward_hook(partial(_convert_output, dtype))


def _convert_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float() if x.is_floating_point() else x for x in inputs)


def _convert_output(dtype: torch.dtype, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.to(dtype)


def _unused(model: JointModel) -> Iterator[nn.Parameter]:
    """Yield what no head uses, such as an untied output layer if the model only classifies."""
    yield from model.backbone.family.untrained_parameters(model.backbone.model)
    if model.generates or not model.backbone.has_decoder:
        return
    output_layer = model.backbone.model.get_output_embeddings()
    used = {
        id(parameter)
        for module in model.backbone.model.modules()
        if module is not output_layer
        for parameter in module.parameters(recurse=False)
    }
    for parameter in output_layer.parameters():
        if id(parameter) not in used:
            yield parameter
