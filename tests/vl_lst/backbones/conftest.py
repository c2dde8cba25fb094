"""Tiny backbones of every family, each written and loaded once."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tiny_backbones import save_backbone, tiny_backbones
from torch import Tensor, nn

from vl_lst.backbones import families
from vl_lst.backbones.families import find_family, known_model_types
from vl_lst.backbones.family import Family
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import LoadedBackbone, load_backbone

TINY = tiny_backbones()


@contextmanager
def known_family(family: Family | None) -> Iterator[None]:
    """Let loading find a family that is not in the package."""
    found = {} if family is None else dict.fromkeys(family.model_types, family)
    known = {kind: find_family(kind) for kind in known_model_types()}
    with patch.object(families, "_families", lambda: known | found):
        yield


class ModelCopier:
    """Copies of a model, several times as fast as `copy.deepcopy` makes them.

    The modules are pickled once, in memory; tensors are copied for each copy.

    Args:
        model: Model that no test changes.
    """

    def __init__(self, model: nn.Module) -> None:
        tensors: list[Tensor] = []
        places: dict[int, int] = {}

        class Pickler(pickle.Pickler):
            def persistent_id(self, value: object) -> int | None:
                if not isinstance(value, Tensor):
                    return None
                if id(value) not in places:
                    places[id(value)] = len(tensors)
                    tensors.append(value)
                return places[id(value)]

        pickled = io.BytesIO()
        Pickler(pickled, protocol=pickle.HIGHEST_PROTOCOL).dump(model)
        self._pickled, self._tensors = pickled.getvalue(), tensors

    def copy(self) -> Any:
        """Return a copy that shares nothing with the model; tied tensors are tied in it, too."""
        tensors = self._tensors
        memo: dict[int, Any] = {}

        class Unpickler(pickle.Unpickler):
            def persistent_load(self, place: int) -> Tensor:
                return copy.deepcopy(tensors[place], memo)

        return Unpickler(io.BytesIO(self._pickled)).load()


class SavedBackbones:
    """Stock models by name, and the folders that they were saved to.

    Args:
        root: Folder for the folders.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._stock: dict[str, Any] = {}
        self._loaded: dict[tuple[str, str], LoadedBackbone] = {}
        self._copiers: dict[tuple[str, str], ModelCopier] = {}

    def stock(self, name: str) -> Any:
        """Return the language model that was saved; tests do not change it."""
        if name not in self._stock:
            self._stock[name] = save_backbone(TINY[name], self._root / name)
        return TINY[name].language(self._stock[name])

    def folder(self, name: str) -> Path:
        """Return the folder of a backbone."""
        self.stock(name)
        return self._root / name

    def load(self, name: str, precision: str = "fp32") -> LoadedBackbone:
        """Return what `load_backbone` makes of the folder; tests do not change it."""
        key = (name, precision)
        if key not in self._loaded:
            with known_family(TINY[name].family):
                self._loaded[key] = load_backbone(self.folder(name), precision=precision)  # type: ignore[arg-type]
        return self._loaded[key]

    def copy(self, name: str, precision: str = "fp32") -> FrozenBackbone:
        """Return a copy of the backbone, which a test may change."""
        backbone = self.load(name, precision).backbone
        if (name, precision) not in self._copiers:
            self._copiers[name, precision] = ModelCopier(backbone.model)
        return FrozenBackbone(self._copiers[name, precision].copy(), backbone.family)


@pytest.fixture(scope="session")
def saved_backbones(tmp_path_factory: pytest.TempPathFactory) -> SavedBackbones:
    return SavedBackbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture
def make_tiny(saved_backbones: SavedBackbones) -> Callable[..., FrozenBackbone]:
    return saved_backbones.copy
