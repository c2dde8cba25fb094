"""COCO caption metrics exactly as the official evaluator computes them.

The rules are those of coco-caption as packaged in pycocoevalcap 1.2: BLEU, ROUGE-L and CIDEr-D by
its own scorers, tokens and METEOR by its jars. What is done otherwise:

* Captions are tokenised in a folder of their own, and every line separator counts as a space;
  officially all but the line feed move the captions that follow to other images.
* Java programs run under a time limit, and what they print is kept for the error message. A metric
  that cannot be computed is `None` and has a reason; the others are not lost.
* METEOR, which takes longest, runs while Python computes the others.

CIDEr weighs words by how many of the evaluated images they are said of, so it depends on which
images are evaluated, and is 0 for a single one.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from eval._java import JavaError
from eval._meteor import Meteor
from eval._ptb import SHIFTING_SEPARATOR, tokenise
from eval._spice import spice
from eval.errors import InputError
from eval.submissions import first_five, require_predictions, require_same_ids

__all__ = ["METRICS", "CaptionScores", "score_captions"]

BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
METRICS = (*BLEU, "meteor", "rouge_l", "cider", "spice")

# Overall, and of each image in order.
Scores = tuple[float, Sequence[float]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Scores on the official script's scale: CIDEr in [0, 10], all others in [0, 1].

    Args:
        metrics: All of `METRICS`, `None` for those that could not be computed.
        per_image: {metric: {image id: score}} for those that could. BLEU and METEOR overall are
            not the mean of the images, but computed from the sums of their counts.
        reasons: Why each metric that is `None` could not be computed, and how to get it.
    """

    metrics: Mapping[str, float | None]
    per_image: Mapping[str, Mapping[str, float]]
    reasons: Mapping[str, str]


def score_captions(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    time_limit: float | None = None,
    strict_official: bool = False,
) -> CaptionScores:
    """Score one caption per image.

    Args:
        captions: {image id: caption}.
        references: {image id: what people said}, of all images to evaluate, in the official
            file's order.
        time_limit: Seconds each Java program may take; `None` for generous limits that grow with
            the number of images.
        strict_official: Let line separators in captions shift those behind them to other images,
            as they officially do.

    Raises:
        PredictionError: Captions are missing or there are some for other images.
        InputError: A text is not valid Unicode, or no reference holds a word.
        ValueError: There are no images, or one has no reference.
    """
    require_same_ids(references, require_predictions(captions))
    if not references or not all(references.values()):
        raise ValueError("each image needs a reference caption, and there must be an image")
    if not strict_official:
        _warn_of_separators(captions, references)
    try:
        found, reasons = _computed(captions, references, time_limit, strict_official)
    except JavaError as error:
        # Without tokens there is nothing to count.
        found, reasons = {}, dict.fromkeys(METRICS, str(error))
    return CaptionScores(
        metrics={name: found[name][0] if name in found else None for name in METRICS},
        per_image={
            name: dict(zip(references, found[name][1], strict=True))
            for name in METRICS
            if name in found
        },
        reasons=reasons,
    )


def _computed(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    time_limit: float | None,
    strict_official: bool,
) -> tuple[dict[str, Scores], dict[str, str]]:
    tokenised = partial(tokenise, time_limit=time_limit, strict_official=strict_official)
    reasons: dict[str, str] = {}
    # The order of closing matters: killing METEOR is what ends the thread that talks to it.
    with (
        ThreadPoolExecutor(max_workers=1) as in_background,
        Meteor(len(references), time_limit=time_limit) as program,
    ):
        tokens = iter(tokenised([text for texts in references.values() for text in texts]))
        gold = [[next(tokens) for _ in texts] for texts in references.values()]
        said = tokenised([captions[image] for image in references])
        _require_words(gold)
        meteor = in_background.submit(program.score, said, gold)
        found = _scores_in_python(said, gold)
        try:
            found["meteor"] = meteor.result()
        except JavaError as error:
            reasons["meteor"] = str(error)
    try:
        found["spice"] = spice(said, gold, time_limit=time_limit)
    except JavaError as error:
        reasons["spice"] = str(error)
    return found, reasons


def _warn_of_separators(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> None:
    images = [
        image
        for image, texts in references.items()
        if SHIFTING_SEPARATOR.search("".join([captions[image], *texts]))
    ]
    if images:
        log.warning(
            "captions of %s images hold line separators (%s). They count as spaces here; the "
            "official script would move the captions behind them to other images.",
            f"{len(images):,}",
            first_five(images),
        )


def _require_words(gold: Sequence[Sequence[str]]) -> None:
    if not any(text.split() for texts in gold for text in texts):
        raise InputError(
            f"none of the reference captions of {len(gold):,} images holds a word; are these the "
            "right annotations?"
        )


def _scores_in_python(said: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, Scores]:
    """The metrics that need no Java beyond the tokens, by the library's scorers."""
    # Numpy and a debugger come with them, which nobody needs who scores something else.
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates = {number: [caption] for number, caption in enumerate(said)}
    references = dict(enumerate(gold))
    overall, each = Bleu(len(BLEU)).compute_score(references, candidates, verbose=0)
    found: dict[str, Scores] = dict(zip(BLEU, zip(overall, each, strict=True), strict=True))
    for name, scorer in (("rouge_l", Rouge()), ("cider", Cider())):
        mean, values = scorer.compute_score(references, candidates)
        found[name] = float(mean), values.tolist()
    return found
