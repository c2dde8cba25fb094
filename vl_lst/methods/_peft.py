"""Base class of methods from the library `peft`."""

from collections.abc import Iterator
from typing import TypeVar

import torch
from peft import PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from vl_lst.methods._joint import JointMethod, JointOptions
from vl_lst.models.joint import JointModel

__all__ = ["PeftMethod", "inject"]

Options = TypeVar("Options", bound=JointOptions)


class PeftMethod(JointMethod[Options]):
    """Method in which `peft` wraps layers and the parameters that it adds train."""

    def tuned(self, model: JointModel) -> Iterator[nn.Parameter]:
        """Yield the parameters that `peft` added."""
        return _added(model)


def inject(model: JointModel, config: PeftConfig) -> None:
    """Wrap the layers that `config` names with `peft`; the added parameters are float32."""
    inject_adapter_in_model(config, model.backbone.model)
    for parameter in _added(model):
        parameter.data = parameter.data.to(torch.float32)


def _added(model: JointModel) -> Iterator[nn.Parameter]:
    for module in model.backbone.modules():
        if isinstance(module, BaseTunerLayer):
            for name in module.adapter_layer_names:
                yield from getattr(module, name).parameters()
