"""A run whose backbone is on the Hub."""

import shutil
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from tiny_run import TinyWorld

BACKBONE = "someone/tiny-backbone"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A finished run; its folder may be changed."""
    return shutil.copytree(trained, tmp_path / "home" / "alice" / "run")


@pytest.fixture
def model_hub(world: TinyWorld, hub: LoopbackHub) -> LoopbackHub:
    """A Hub with the backbone of the run, as `someone/tiny-backbone`."""
    hub.add(BACKBONE, {path.name: path.read_bytes() for path in world.backbone.iterdir()})
    return hub
