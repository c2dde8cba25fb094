"""Time to score generated captions, compared with pycocoevalcap's own classes.

Both tokenize references and captions once. pycocoevalcap then computes BLEU, METEOR, ROUGE-L and
CIDEr in sequence; `score_captions` runs METEOR in parallel with the others. SPICE is omitted. The
first call of a process starts METEOR, which loads its tables; later calls, as in the validations of
a training run, use the same program and the tokens of the same references. The library's tokenizer
writes a temporary file into its package folder, which must be writable. Requires Java.

    python benchmarks/caption_scoring.py [--images 5000] [--json FILE]
"""

import argparse
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from eval.caption import METRICS, score_captions
from eval.outputs import write_json

KARPATHY_TEST_IMAGES = 5_000
NEXT_CALLS = 3
REFERENCES_PER_IMAGE = 5
SUBJECTS = "man woman child dog cat horse train bus giraffe skier group couple".split()
VERBS = "riding holding watching eating standing near sitting on walking past playing with".split()
OBJECTS = (
    "table street field pizza surfboard kite bench umbrella fence window frisbee beach".split()
)
WORDS = "red blue large small old wooden white young empty busy sunny snowy".split()


def main() -> None:
    """Print the times and their ratios; fail if the scores differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=KARPATHY_TEST_IMAGES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    captions, references = generate(options.images)
    seconds = []
    for _ in range(1 + NEXT_CALLS):
        started = time.perf_counter()
        scores = score_captions(captions, references)
        seconds.append(time.perf_counter() - started)
    first, later = seconds[0], statistics.median(seconds[1:])
    if missing := [name for name in METRICS[:-1] if scores.metrics[name] is None]:
        raise SystemExit(f"not computed: {missing[0]}: {scores.reasons[missing[0]]}")
    started = time.perf_counter()
    theirs = library_way(captions, references)
    library = time.perf_counter() - started
    for name, value in theirs.items():
        if abs(value - (scores.metrics[name] or 0.0)) > 1e-9:
            raise SystemExit(f"{name} differs: {scores.metrics[name]} and {value}")

    print(f"{options.images:,} images, CIDEr {scores.metrics['cider']:.4f} by both")
    print(f"pycocoevalcap               {library:7.2f} s")
    print(f"score_captions, first call  {first:7.2f} s  ratio {library / first:5.2f}")
    print(f"score_captions, next calls  {later:7.2f} s  ratio {library / later:5.2f}")
    if options.json is not None:
        write_json(
            options.json,
            {
                "images": options.images,
                "seconds": first,
                "next_seconds": later,
                "pycocoevalcap_seconds": library,
                "ratio": library / first,
                "next_ratio": library / later,
            },
        )


def generate(images: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return one caption per image, and the references."""
    draw = random.Random(0)
    references = {}
    captions = {}
    for number in range(images):
        subject, place = draw.choice(SUBJECTS), draw.choice(OBJECTS)
        texts = [_sentence(draw, subject, place) for _ in range(REFERENCES_PER_IMAGE + 1)]
        captions[str(number)], references[str(number)] = texts[0], texts[1:]
    return captions, references


def _sentence(draw: random.Random, subject: str, place: str) -> str:
    first, second, verb = draw.choice(WORDS), draw.choice(WORDS), draw.choice(VERBS)
    return f"A {first} {subject} {verb} a {second} {place}, beside a {draw.choice(OBJECTS)}."


def library_way(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Score with the library's classes, in the order of its `COCOEvalCap.evaluate`."""
    tokenizer = PTBTokenizer()
    gold = tokenizer.tokenize(
        {image: [{"caption": text} for text in texts] for image, texts in references.items()}
    )
    said = tokenizer.tokenize({image: [{"caption": text}] for image, text in captions.items()})
    # METEOR's process starts with its object, so it loads its tables while BLEU is computed.
    bleu, others = Bleu(4), {"meteor": Meteor(), "rouge_l": Rouge(), "cider": Cider()}
    overall, _ = bleu.compute_score(gold, said, verbose=0)
    found = {f"bleu_{n}": float(value) for n, value in enumerate(overall, 1)}
    for name, scorer in others.items():
        score, _ = scorer.compute_score(gold, said)
        found[name] = float(score)
    return found


if __name__ == "__main__":
    main()
