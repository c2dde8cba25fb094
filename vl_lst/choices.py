"""Values of settings that are choices. Imports nothing slow, because help texts list them."""

import ast
import importlib.util
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

__all__ = [
    "AUTO",
    "QUANTIZED",
    "ArithmeticPrecision",
    "BackbonePrecision",
    "ChosenArithmeticPrecision",
    "ChosenBackbonePrecision",
    "DeviceName",
    "OptimizerName",
    "StatePrecision",
    "TrackerName",
    "Vocabulary",
    "describe_modules",
    "module_names",
    "names_in",
]

# The value of a setting that is decided by the device; a run records what it was.
AUTO: Literal["auto"] = "auto"
ArithmeticPrecision = Literal["fp32", "bf16"]
# Precision of the frozen backbone's weights; see `vl_lst.backbones.quantization`.
BackbonePrecision = Literal["fp32", "bf16", "int8", "nf4"]
# What a user may choose; see `vl_lst.recipes.precision`.
ChosenArithmeticPrecision = Literal["auto", "fp32", "bf16"]
ChosenBackbonePrecision = Literal["auto", "fp32", "bf16", "int8", "nf4"]
# The first is the one that messages suggest, and that `auto` means for methods that need one.
QUANTIZED: tuple[BackbonePrecision, ...] = ("nf4", "int8")
# Tokens of a backbone; see `vl_lst.backbones.loading`.
Vocabulary = Literal["tokenizer"]
# Type of the states in a file; see `vl_lst.extraction`.
StatePrecision = Literal["fp32", "bf16", "fp16"]
DeviceName = Literal["auto", "cpu", "cuda"]
# See `vl_lst.training.optimizer`.
OptimizerName = Literal["adamw", "adamw-8bit", "lora-fa", "galore", "apollo"]
# See `vl_lst.runs.trackers`.
TrackerName = Literal["tensorboard", "wandb", "trackio"]


def module_names(package: str) -> list[str]:
    """Return the names in `names_in` of the public modules of a package, without importing it.

    Args:
        package: Full name of the package, such as `vl_lst.methods`.
    """
    return names_in(_folders(package))


def describe_modules(package: str) -> dict[str, str]:
    """Return the first line of the docstring of each module in `module_names`.

    Args:
        package: See `module_names`; its modules are not imported.
    """
    found: dict[str, str] = {}
    for folder in _folders(package):
        for name in names_in([folder]):
            source = (Path(folder) / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
            docstring = ast.get_docstring(ast.parse(source)) or ""
            found[name] = docstring.partition("\n")[0].rstrip(".:")
    return found


def _folders(package: str) -> list[str]:
    spec = importlib.util.find_spec(package)
    return list(spec.submodule_search_locations or []) if spec else []


def names_in(folders: Iterable[str]) -> list[str]:
    """Return the names of the public modules in folders, with a hyphen for each underscore."""
    names = (module.name for module in pkgutil.iter_modules(folders))
    return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))
