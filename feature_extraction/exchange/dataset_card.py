"""The README of a dataset of features on the Hugging Face Hub."""

import json

from feature_extraction.spec import IMPORTED, FeatureSpec
from feature_extraction.store.reader import FeatureReader

__all__ = ["hdf5_card", "parquet_card"]


def parquet_card(store: FeatureReader) -> str:
    """Return the README of features exported to Parquet.

    Args:
        store: The features.
    """
    columns = (
        "Each row is one image: `id` (text), `features` (float16 "
        f"`[{store.tokens}, {store.channels}]`), and `height` and `width` of the photograph in "
        "pixels (null if unknown)."
    )
    use = (
        "```python\nfrom datasets import load_dataset\n\n"
        'rows = load_dataset("OWNER/NAME", split="train", streaming=True)\n```\n\n'
        "As a feature file of vl-lst:\n\n"
        "```\nvl-lst features import hf://datasets/OWNER/NAME --out features.h5\n```"
    )
    header = (
        "configs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: train-*.parquet\n"
    )
    return _card(store, header, f"{columns}\n\n{use}")


def hdf5_card(store: FeatureReader, repository: str, file_name: str) -> str:
    """Return the README of a feature file.

    Args:
        store: The features.
        repository: Repository on the Hub, `OWNER/NAME`.
        file_name: Name of the file there.
    """
    use = (
        f"{_code(file_name)} is a feature file of vl-lst:\n\n"
        f"```\nvl-lst features pull {repository} --out features.h5\n```\n\n"
        "```python\nfrom feature_extraction.store import open_features\n\n"
        'features = open_features("features.h5")\n'
        "features[next(iter(features))].shape  # "
        f"({store.tokens}, {store.channels})\n```"
    )
    return _card(store, "", use)


def _card(store: FeatureReader, header: str, use: str) -> str:
    settings = "\n".join(f"| {name} | {value} |" for name, value in _settings(store.spec).items())
    left_out = len(store.listed_ids) - len(store)
    missing = f" {left_out:,} images have no features." if left_out else ""
    return (
        f"---\nlicense: unknown\ntags:\n- image-features\n- vl-lst\n{header}---\n\n"
        f"# Features of {len(store):,} images\n\n"
        f"Features of {_code(store.spec.encoder)}, extracted once so that models can be trained "
        f"without the photographs.{missing} State the license of the photographs and of the "
        f"encoder above.\n\n{use}\n\n## Settings\n\n| setting | value |\n|---|---|\n{settings}\n\n"
        "The settings as they are in the files:\n\n"
        f"```json\n{json.dumps(json.loads(store.spec.to_json()), indent=2)}\n```\n"
    )


def _settings(spec: FeatureSpec) -> dict[str, str]:
    declared = ", as declared" if spec.weights == IMPORTED else ""
    return {
        "encoder": _code(spec.encoder) + declared,
        "weights": _code(spec.weights),
        "photographs": f"{spec.image_size} x {spec.image_size} pixels, {spec.resize}{declared}",
        "features": f"{spec.tokens} x {spec.channels}, {spec.dtype}, {spec.layer}",
        "digest": _code(spec.digest),
    }


def _code(text: str) -> str:
    # Names come from files and must not end the table cell or the code.
    safe = "".join(char if char.isprintable() and char not in "`|" else "?" for char in text)
    return f"`{safe}`"
