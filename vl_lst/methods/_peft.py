"""Base class of methods from the library `peft`."""

from collections.abc import Iterator
from typing import TypeVar

from peft import PEFT_TYPE_TO_TUNER_MAPPING, PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from vl_lst.methods._joint import JointMethod, JointOptions
from vl_lst.models.joint import JointModel

__all__ = ["PeftMethod", "inject", "query_value_layers"]

Options = TypeVar("Options", bound=JointOptions)


class PeftMethod(JointMethod[Options]):
    """Method in which `peft` wraps layers and the parameters that it adds train."""

    def tuned(self, model: JointModel) -> Iterator[nn.Parameter]:
        """Yield the parameters that `peft` added."""
        return _added(model)


def query_value_layers(model: JointModel) -> list[str]:
    """Return the names of the layers of queries and values of every attention of the backbone."""
    backbone = model.backbone
    return [
        name
        for attention in backbone.family.attentions(backbone.model)
        for name in (attention.query, attention.value)
    ]


def inject(model: JointModel, config: PeftConfig) -> None:
    """Wrap the layers that `config` names with `peft`; what it adds is float32."""
    # As `inject_adapter_in_model` does, which refuses tuners with state that layers share. Each
    # layer has a reference to that state, so the tuner itself is not needed any more.
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)]
    tuner(model.backbone.model, config, "default")
    for layer in _wrapped(model):
        for name in (*layer.adapter_layer_names, *layer.other_param_names):
            added = getattr(layer, name, None)
            if isinstance(added, nn.Module):  # others are settings
                added.float()


def _added(model: JointModel) -> Iterator[nn.Parameter]:
    for layer in _wrapped(model):
        for name in layer.adapter_layer_names:
            yield from getattr(layer, name).parameters()


def _wrapped(model: JointModel) -> Iterator[BaseTunerLayer]:
    return (layer for layer in model.backbone.modules() if isinstance(layer, BaseTunerLayer))
