"""SPICE 1.0, by its authors' Java program. Requires the models of the Stanford parser."""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval._java import JavaError, library_folder, run_java
from eval.text import counted

__all__ = ["spice"]

JAR = "spice-1.0.jar"
MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
START_SECONDS = 600.0
IMAGES_PER_SECOND = 2  # A tenth of the usual speed.


def spice(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    time_limit: float | None = None,
) -> tuple[float, list[float]]:
    """Return the mean F-score over scene graphs and the F-score of each caption.

    The official code also caches parsed sentences in a database inside the installed package. This
    function does not.

    Args:
        captions: One tokenized caption per image.
        references: The tokenized references of each image.
        time_limit: Seconds after which the program is killed; `None` for a generous limit.

    Raises:
        JavaError: The models are not installed, or the program failed.
    """
    library = library_folder("spice")
    missing = [name for name in MODELS if not (library / "lib" / name).is_file()]
    if missing:
        raise JavaError(
            f"requires the models of Stanford CoreNLP 3.6.0 (390 MB), and {missing[0]} is not in "
            f"{library / 'lib'}; run `python -m pycocoevalcap.spice.get_stanford_models`"
        )
    if time_limit is None:
        time_limit = START_SECONDS + len(captions) / IMAGES_PER_SECOND
    with tempfile.TemporaryDirectory(prefix="vl-lst-") as folder:
        questions, answers = Path(folder, "captions.json"), Path(folder, "scores.json")
        items = [
            {"image_id": number, "test": caption, "refs": list(texts)}
            for number, (caption, texts) in enumerate(zip(captions, references, strict=True))
        ]
        questions.write_text(json.dumps(items), encoding="utf-8")
        run_java(
            "SPICE",
            # The options and their order are those of the official call, without its cache.
            ["-jar", "-Xmx8G", str(library / JAR), str(questions)]
            + ["-out", str(answers), "-subset", "-silent"],
            folder=Path(folder),
            time_limit=time_limit,
        )
        each = _read_scores(answers, len(captions))
    undefined = sum(map(math.isnan, each))
    if undefined:
        raise JavaError(
            f"SPICE is not a number for {counted(undefined, 'caption')}, so it has no mean"
        )
    return sum(each) / len(each), each


def _read_scores(path: Path, images: int) -> list[float]:
    try:
        results: list[Any] = json.loads(path.read_text(encoding="utf-8"))
        of_image = {item["image_id"]: float(item["scores"]["All"]["f"]) for item in results}
        return [of_image[number] for number in range(images)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise JavaError(f"the scores that SPICE wrote cannot be read ({error!r})") from None
