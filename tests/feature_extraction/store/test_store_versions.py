"""Feature files of every version of the schema stay readable.

`tests/golden/features` contains a small file of each version, and of each way in which one version
was stored. A new version of the spec (`feature_extraction.spec`) adds a file; files are never
removed or rewritten.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from plain_stores import SPEC

from feature_extraction.errors import StoreError
from feature_extraction.exchange.compression import compress_store
from feature_extraction.spec import SCHEMA_VERSION, FeatureSpec
from feature_extraction.store import open_features

GOLDEN = Path(__file__).parents[2] / "golden" / "features"
FILES = sorted(GOLDEN.glob("version-*.h5"))
SPECS = {
    1: SPEC,
    2: dataclasses.replace(SPEC, crops=2, grid=(1, 1)),
    3: dataclasses.replace(SPEC, layer="language", grid=(1, 4), projection_sha256="c" * 64),
}


def version_of(path: Path) -> int:
    return int(path.stem.split("-")[1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_of_each_version_reads_as_it_was_written(path: Path) -> None:
    spec = SPECS[version_of(path)]
    store, expected = open_features(path), np.load(GOLDEN / "features.npy")[:, : spec.tokens]
    assert list(store) == ["a", "c", "dé"]
    assert np.array_equal(store.read(["dé", "a", "c"]), expected[[3, 0, 2]])
    assert store.failures == {"bad": "it is broken, é"}
    assert store.image_size("c") == (4, 5)
    assert store.spec.differences(spec) == []
    assert store.spec.to_json() == spec.to_json()
    assert json.loads(spec.to_json())["version"] == version_of(path)


def test_there_is_a_file_of_each_version() -> None:
    assert {version_of(path) for path in FILES} == set(range(1, SCHEMA_VERSION + 1)) == set(SPECS)


def test_a_file_of_an_older_version_can_be_rewritten(tmp_path: Path) -> None:
    compress_store(GOLDEN / "version-1.h5", tmp_path / "new.h5")
    assert np.array_equal(
        open_features(tmp_path / "new.h5")["a"], np.load(GOLDEN / "features.npy")[0]
    )


def test_a_later_version_is_refused_by_name() -> None:
    later = SPEC.to_json().replace('"version":1', '"version":4')
    with pytest.raises(StoreError, match=r"version 3 or earlier: its version is 4.*upgrade this"):
        FeatureSpec.from_json(later)
