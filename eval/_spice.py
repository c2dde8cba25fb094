"""SPICE 1.0, by its authors' Java program, where the parser's models are installed."""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval._java import JavaError, library_folder, run_java

__all__ = ["spice"]

JAR = "spice-1.0.jar"
MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
START_SECONDS = 600.0
IMAGES_PER_SECOND = 2  # A tenth of what is usual.


def spice(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    time_limit: float | None = None,
) -> tuple[float, list[float]]:
    """Return the mean F-score of scene graphs and that of each caption.

    The official code also keeps parsed sentences in a database inside the installed package; here
    there is none, so nothing is written there.

    Args:
        captions: One tokenised caption per image.
        references: The tokenised references of each image.
        time_limit: Seconds until the program is killed; `None` for a generous limit.

    Raises:
        JavaError: The models are not installed, or the program did not do its work.
    """
    library = library_folder("spice")
    missing = [name for name in MODELS if not (library / "lib" / name).is_file()]
    if missing:
        raise JavaError(
            f"needs the models of Stanford CoreNLP 3.6.0 (390 MB), and {missing[0]} is not in "
            f"{library / 'lib'}; `python -m pycocoevalcap.spice.get_stanford_models` fetches them"
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
            # The options and their order are those of the official call, less its cache.
            ["-jar", "-Xmx8G", str(library / JAR), str(questions)]
            + ["-out", str(answers), "-subset", "-silent"],
            folder=Path(folder),
            time_limit=time_limit,
        )
        each = _read_scores(answers, len(captions))
    undefined = sum(map(math.isnan, each))
    if undefined:
        raise JavaError(f"SPICE is not a number for {undefined:,} captions, and so is its mean")
    return sum(each) / len(each), each


def _read_scores(path: Path, images: int) -> list[float]:
    try:
        results: list[Any] = json.loads(path.read_text(encoding="utf-8"))
        of_image = {item["image_id"]: float(item["scores"]["All"]["f"]) for item in results}
        return [of_image[number] for number in range(images)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise JavaError(f"SPICE wrote no scores that can be read ({error!r})") from None
