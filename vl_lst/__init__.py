"""Memory-efficient fine-tuning of a frozen language model on language, with or without images.

Names in `__all__` are public. Each is imported on first use, so that scoring predictions needs no
torch.
"""

import importlib
from typing import Any

from feature_extraction.library_messages import hide_enum_registrations

hide_enum_registrations()

__version__ = "0.1.0"

_MODULES = {
    "Batch": "vl_lst.models.batch",
    "FrozenBackbone": "vl_lst.backbones.frozen",
    "HeadConfig": "vl_lst.models.config",
    "JointBackbone": "vl_lst.models.joint",
    "JointModel": "vl_lst.models.joint",
    "LadderConfig": "vl_lst.models.config",
    "LadderModel": "vl_lst.models.ladder.model",
    "VisionLanguageModel": "vl_lst.models.vision_language_model",
    "VisualConfig": "vl_lst.models.config",
    "generate": "vl_lst.generation.search",
    "get_task": "tasks",
    "load_backbone": "vl_lst.backbones.loading",
    "load_run": "vl_lst.run",
    "zero_shot": "vl_lst.run",
}

__all__ = [
    "Batch",
    "FrozenBackbone",
    "HeadConfig",
    "JointBackbone",
    "JointModel",
    "LadderConfig",
    "LadderModel",
    "VisionLanguageModel",
    "VisualConfig",
    "__version__",
    "generate",
    "get_task",
    "load_backbone",
    "load_run",
    "zero_shot",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'vl_lst' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
