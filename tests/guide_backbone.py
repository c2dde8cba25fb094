"""The family in the guide for new backbones, and its tiny model."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["guide_backbone_codes", "guide_backbones", "guide_family"]

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "adding_a_backbone.md"


def guide_backbone_codes() -> tuple[str, str]:
    """Return the code of the family and of its tiny model."""
    family, tiny = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return family, tiny


def guide_family() -> Any:
    """Return the family."""
    return _run("vl_lst.backbones.families.guide", guide_backbone_codes()[0]).FAMILY


def guide_backbones() -> dict[str, Any]:
    """Return the tiny models by name."""
    backbones: dict[str, Any] = _run("tiny_guide", guide_backbone_codes()[1]).BACKBONES
    return backbones


def _run(name: str, code: str) -> ModuleType:
    module = ModuleType(name)
    exec(compile(code, str(GUIDE), "exec"), module.__dict__)
    return module
