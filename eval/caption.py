"""COCO caption metrics exactly as the official evaluator computes them.

The rules are those of coco-caption as packaged in pycocoevalcap 1.2. BLEU, ROUGE-L and CIDEr-D use
its scorers; tokenization and METEOR use its JAR files. The differences are:

* Captions are tokenized in a temporary folder, and every line separator counts as a space.
  Officially, all separators except the line feed shift the following captions to other images.
* Java programs run with a time limit, and their output is kept for error messages. A metric that
  cannot be computed is `None` and has a reason; the other metrics are still returned.
* METEOR, which takes longest, runs while Python computes the others. Its program is kept for the
  next call, because it loads tables for several seconds when it starts.

CIDEr weights a word by the number of evaluated images that it describes. It therefore depends on
the set of evaluated images, and is 0 for a single image.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from eval._java import JavaError
from eval._meteor import running_meteor
from eval._ptb import SHIFTING_SEPARATOR, tokenize
from eval._spice import spice
from eval.errors import InputError
from eval.submissions import first_five, require_predictions, require_same_ids
from eval.text import counted

__all__ = ["METRICS", "CaptionScores", "caption_metrics", "score_captions"]

BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
METRICS = (*BLEU, "meteor", "rouge_l", "cider", "spice")

# The score of the whole set, and the score of each image in order.
Scores = tuple[float, Sequence[float]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Scores on the official script's scale: CIDEr in [0, 10], all others in [0, 1].

    Args:
        metrics: Scores of the whole set for all of `METRICS`; `None` for those that could not be
            computed.
        per_image: {metric: {image ID: score}} for the metrics that are not `None`. BLEU and METEOR
            of the whole set are computed from sums of counts, not as the mean over images.
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
        captions: {image ID: caption}.
        references: {image ID: reference captions} for all images to evaluate, in the order of the
            official file.
        time_limit: Time limit in seconds of each Java program; `None` for generous limits that
            grow with the number of images.
        strict_official: Whether line separators in captions shift the following captions to other
            images, as in the official code.

    Raises:
        PredictionError: Captions are missing or belong to other images.
        InputError: A text is not valid Unicode, or no reference contains a word.
        ValueError: There are no images, or an image has no reference.
    """
    require_same_ids(references, require_predictions(captions))
    if not references or not all(references.values()):
        raise ValueError("expected at least one image, and a reference caption for each")
    if not strict_official:
        _warn_about_separators(captions, references)
    try:
        found, reasons = _compute(captions, references, time_limit, strict_official)
    except JavaError as error:
        # All metrics require tokens.
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


def caption_metrics(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, float | None]:
    """Return the official metrics of a set of captions: CIDEr in [0, 10], all others in [0, 1].

    Args:
        captions: {image ID: caption}.
        references: {image ID: reference captions}.

    Returns:
        All of `METRICS`; `None` for those that cannot be computed on this machine, such as SPICE
        without its models. `score_captions` gives the reasons.

    Raises:
        PredictionError: Captions are missing or belong to other images.
        InputError: A text is not valid Unicode, or no reference contains a word.
        ValueError: There are no images, or an image has no reference.
    """
    return dict(score_captions(captions, references).metrics)


def _compute(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    time_limit: float | None,
    strict_official: bool,
) -> tuple[dict[str, Scores], dict[str, str]]:
    tokenized = partial(tokenize, time_limit=time_limit, strict_official=strict_official)
    reasons: dict[str, str] = {}
    # After an error, METEOR must be killed before the thread that waits for it is joined.
    with (
        ThreadPoolExecutor(max_workers=1) as in_background,
        running_meteor(len(references), time_limit=time_limit) as program,
    ):
        texts_in_order = [text for texts in references.values() for text in texts]
        tokens = iter(tokenized(texts_in_order, remember=True))
        gold = [[next(tokens) for _ in texts] for texts in references.values()]
        candidates = tokenized([captions[image] for image in references])
        _require_words(gold)
        meteor = in_background.submit(program.score, candidates, gold)
        found = _scores_in_python(candidates, gold)
        try:
            found["meteor"] = meteor.result()
        except JavaError as error:
            reasons["meteor"] = str(error)
    try:
        found["spice"] = spice(candidates, gold, time_limit=time_limit)
    except JavaError as error:
        reasons["spice"] = str(error)
    return found, reasons


def _warn_about_separators(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> None:
    images = [
        image
        for image, texts in references.items()
        if SHIFTING_SEPARATOR.search("".join([captions[image], *texts]))
    ]
    if images:
        log.warning(
            "captions of %s contain line separators (%s), which count as spaces; the "
            "official script would shift the following captions to other images",
            counted(len(images), "image"),
            first_five(images),
        )


def _require_words(gold: Sequence[Sequence[str]]) -> None:
    if not any(text.split() for texts in gold for text in texts):
        raise InputError(
            f"the reference captions of {counted(len(gold), 'image')} contain no words; check that "
            "these are the right annotations"
        )


def _scores_in_python(captions: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, Scores]:
    """Return the metrics that need Java only for the tokens, by the library's scorers."""
    # These modules import NumPy and a debugger, which other tasks do not need.
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates = {number: [caption] for number, caption in enumerate(captions)}
    references = dict(enumerate(gold))
    overall, each = Bleu(len(BLEU)).compute_score(references, candidates, verbose=0)
    found: dict[str, Scores] = dict(zip(BLEU, zip(overall, each, strict=True), strict=True))
    for name, scorer in (("rouge_l", Rouge()), ("cider", Cider())):
        mean, values = scorer.compute_score(references, candidates)
        found[name] = float(mean), values.tolist()
    return found
