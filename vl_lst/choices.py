"""Values of settings that are choices. Imports nothing slow, because help texts list them."""

import importlib.util
import pkgutil
from typing import Literal

__all__ = [
    "ArithmeticPrecision",
    "BackbonePrecision",
    "DeviceName",
    "OptimizerName",
    "Vocabulary",
    "module_names",
]

ArithmeticPrecision = Literal["fp32", "bf16"]
# Precision of the frozen backbone's weights; see `vl_lst.backbones.quantization`.
BackbonePrecision = Literal["fp32", "bf16", "int8", "nf4"]
# Tokens of a backbone; see `vl_lst.backbones.loading`.
Vocabulary = Literal["tokenizer"]
DeviceName = Literal["auto", "cpu", "cuda"]
# See `vl_lst.training.optimizer`.
OptimizerName = Literal["adamw", "adamw-8bit", "lora-fa", "galore", "apollo"]


def module_names(package: str) -> list[str]:
    """Return the names of the public modules of a package, without importing it.

    Args:
        package: Full name of the package, such as `vl_lst.methods`.
    """
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    names = (module.name for module in pkgutil.iter_modules(folders or []))
    return sorted(name for name in names if not name.startswith("_"))
