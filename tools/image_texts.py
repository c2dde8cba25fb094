"""Pretraining text of the demo's backbone that reads images: what pictures of scenes show.

Captions, complete lists of a picture's shapes, and true statements about one picture or two. No
text answers a question.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tools.shapes_texts import PREFIXES, ask, describe
from vl_lst.demo.captions import (
    NUMBER_WORDS,
    PLURALS,
    RELATION_WORDS,
    caption,
    join_phrases,
    noun_phrase,
    position,
    with_article,
)
from vl_lst.demo.scenes import COLOURS, SHAPES, SIZES, Scene, SceneObject, holds, pick
from vl_lst.demo.statements import Statement, statements_about

__all__ = [
    "HIDDEN",
    "LIST_PROMPT",
    "Cloze",
    "Text",
    "compare_scenes",
    "describe_scene",
    "hidden_words",
    "hide_a_word",
    "list_objects",
    "list_of",
    "list_side",
    "side_of",
    "state_facts",
    "unique_objects",
    "unique_objects",
    "write_caption",
]

CAPTION_PROMPT = "caption: "
LIST_PROMPT = "all shapes: "
SIDE_PROMPTS = ("left image: ", "right image: ")
PAIR_PREFIXES = ("nlvr: ", "")
QUESTION_PROBABILITY = 0.15
HIDDEN, END_OF_HIDDEN = "<extra_id_0>", "<extra_id_1>"

# Rows of the 3 x 3 grid that `position` names.
ROWS = 3


@dataclass(frozen=True, slots=True)
class Text:
    """One training text.

    Args:
        source: Prompt, or a line to be corrupted.
        target: Text to generate; `None` for the hidden spans of the line.
    """

    source: str
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Cloze:
    """A statement with one hidden word.

    Args:
        kind: What the word tells: "colour", "shape", "side", "count" or "presence".
        line: The statement.
        word: The word that makes it true.
    """

    kind: str
    line: str
    word: str


def list_objects(scenes: Sequence[Scene], rng: Random) -> Text:
    """Return a prompt for all objects of one scene, and these objects."""
    return Text(LIST_PROMPT, list_of(scenes[0]))


def list_side(scenes: Sequence[Scene], rng: Random) -> Text:
    """Return a prompt for all objects of the left or the right scene, and these objects."""
    side = int(rng.random() * len(SIDE_PROMPTS))
    return Text(SIDE_PROMPTS[side], list_of(scenes[side]))


def write_caption(scenes: Sequence[Scene], rng: Random) -> Text:
    """Return the captioning task's prompt and a caption of one scene."""
    return Text(CAPTION_PROMPT, caption(scenes[0], rng))


def state_facts(scenes: Sequence[Scene], rng: Random) -> Text:
    """Return a line of one to three facts about one scene, sometimes a question about it."""
    if rng.random() < QUESTION_PROBABILITY:
        return Text(ask(scenes[0], rng))
    facts = _shuffled(sorted(set(_facts(scenes[0], rng))), rng)
    return Text(pick(rng, PREFIXES) + " ".join(facts[: 1 + int(rng.random() * 3)]))


def describe_scene(scenes: Sequence[Scene], rng: Random) -> Text:
    """Return a caption of one scene and further statements, as in the text-only lines."""
    return Text(describe(scenes[0], rng))


def hide_a_word(scenes: Sequence[Scene], rng: Random) -> Text:
    """Return a statement about one scene whose decisive word is hidden."""
    clozes = list(hidden_words(scenes[0], rng))
    kind = pick(rng, sorted({cloze.kind for cloze in clozes}))
    cloze = pick(rng, [each for each in clozes if each.kind == kind])
    return Text(pick(rng, PREFIXES) + cloze.line, f"{HIDDEN} {cloze.word} {END_OF_HIDDEN}")


def hidden_words(scene: Scene, rng: Random) -> Iterator[Cloze]:
    """Yield statements about one scene, each with the word hidden that only the image tells."""
    for item in unique_objects(scene, "shape"):
        noun = item.shape
        yield Cloze("colour", f"the color of the {noun} is {HIDDEN}.", item.colour)
        yield Cloze("side", f"the {noun} is on the {HIDDEN} side.", side_of(item))
    for item in unique_objects(scene, "colour"):
        line = f"the shape of the {item.colour} object is a {HIDDEN}."
        yield Cloze("shape", line, item.shape)
    yield Cloze("count", f"the number of shapes is {HIDDEN}.", str(len(scene.objects)))
    colours = {item.colour for item in scene.objects}
    absent = sorted(COLOURS.keys() - colours)
    for colour, word in ((pick(rng, sorted(colours)), "a"), (pick(rng, absent), "no")):
        article = with_article(colour).split()[0] if word == "a" else word
        yield Cloze("presence", f"there is {HIDDEN} {colour} shape in the image.", article)


def compare_scenes(scenes: Sequence[Scene], rng: Random) -> Text:
    """Return one or two true statements about a left and a right scene."""
    left, right = scenes
    colours = sorted({item.colour for scene in scenes for item in scene.objects})
    statements = [s for s in statements_about(colours, rng) if s.holds(left, right)]
    # Kinds first: statements about single colours would otherwise crowd out comparisons.
    kinds = _shuffled(sorted({_kind_of(s) for s in statements}), rng)
    sentences = [
        pick(rng, [s.text for s in statements if _kind_of(s) == kind])
        for kind in kinds[: 1 + int(rng.random() * 2)]
    ]
    return Text(pick(rng, PAIR_PREFIXES) + " ".join(sentences))


def _kind_of(statement: Statement) -> str:
    # One kind when the bundled model was pretrained.
    return "either" if statement.kind == "neither" else statement.kind


def list_of(scene: Scene) -> str:
    """Return all objects of a scene in reading order, each with size, colour, shape and place."""
    ordered = sorted(scene.objects, key=lambda item: (int(item.y * ROWS), item.x))
    return join_phrases(
        [f"{with_article(noun_phrase(o, size=True))} in the {position(o)}" for o in ordered]
    )


def unique_objects(scene: Scene, attribute: str) -> list[SceneObject]:
    """Return the objects whose shape, or colour, no other object has."""
    counts = Counter(getattr(o, attribute) for o in scene.objects)
    return [o for o in scene.objects if counts[getattr(o, attribute)] == 1]


def side_of(item: SceneObject) -> str:
    """Return the side of the picture that holds an object's centre."""
    return "left" if item.x < 0.5 else "right"


def _facts(scene: Scene, rng: Random) -> Iterator[str]:
    """Yield true sentences about one picture, present and absent things equally often."""
    place = pick(rng, ("", " in the image", " in the picture"))
    item = pick(rng, scene.objects)
    nouns = {noun for o in scene.objects for noun in (o.shape, noun_phrase(o), f"{o.colour} shape")}
    for noun in (pick(rng, sorted(nouns)), pick(rng, sorted(nouns))):
        yield f"there is {with_article(noun)}{place}."
    near = {
        f"{item.colour} {pick(rng, SHAPES)}",
        f"{pick(rng, tuple(COLOURS))} {item.shape}",
        f"{pick(rng, tuple(COLOURS))} shape",
        pick(rng, SHAPES),
    }
    absent = sorted(near - nouns)
    for noun in absent[:2]:
        yield f"there is no {noun}{place}."
    yield from _counts(scene, rng)
    for unique in unique_objects(scene, "shape"):
        noun = unique.shape if len(scene.objects) > 1 else pick(rng, (unique.shape, "shape"))
        yield f"the color of the {noun} is {unique.colour}."
        yield f"the {noun} is {unique.colour}."
        yield f"the {noun} is {unique.size}, not {SIZES[1 - SIZES.index(unique.size)]}."
        yield from _places(noun, unique)
    for unique in unique_objects(scene, "colour"):
        yield f"the shape of the {unique.colour} object is {with_article(unique.shape)}."
        yield f"the {unique.colour} shape is {with_article(unique.shape)}."
        yield from _places(f"{unique.colour} shape", unique)
    yield from _relations(scene, rng)


def _counts(scene: Scene, rng: Random) -> Iterator[str]:
    shapes = Counter(o.shape for o in scene.objects)
    colours = Counter(o.colour for o in scene.objects)
    shape, colour = pick(rng, sorted(shapes)), pick(rng, sorted(colours))
    counted = {
        "shape": len(scene.objects),
        shape: shapes[shape],
        f"{colour} shape": colours[colour],
    }
    for noun, number in counted.items():
        written = pick(rng, (str(number), NUMBER_WORDS[number]))
        plural = noun.replace(noun.split()[-1], PLURALS[noun.split()[-1]])
        yield f"the number of {plural} is {written}."
        are = "is" if number == 1 else "are"
        yield f"there {are} {written} {noun if number == 1 else plural}."


def _places(noun: str, item: SceneObject) -> Iterator[str]:
    yield f"the {noun} is in the {position(item)}."
    yield f"the {noun} is on the {side_of(item)} side."


def _relations(scene: Scene, rng: Random) -> Iterator[str]:
    for a in unique_objects(scene, "shape"):
        for b in unique_objects(scene, "shape"):
            fitting = [words for relation, words in RELATION_WORDS.items() if holds(relation, a, b)]
            if fitting:
                yield f"the {a.shape} is {pick(rng, fitting)} the {b.shape}."


def _shuffled(texts: Sequence[str], rng: Random) -> list[str]:
    return sorted(texts, key=lambda _: rng.random())
