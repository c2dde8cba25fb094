"""One tiny world for all tests of training."""

from collections.abc import Iterator

import pytest
from tiny_run import TinyWorld, tiny_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyWorld]:
    with tiny_world(tmp_path_factory.mktemp("world")) as made:
        yield made
