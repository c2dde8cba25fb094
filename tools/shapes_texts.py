"""Pretraining text of the demo's T5: lines about the shapes world.

Descriptions, true statements with and without negation, questions in several wordings, and
generic English. No line answers a question.

`python -m tools.shapes_texts` writes the bundled text, on which `vl-lst evaluate --forgetting demo`
measures what a bundled backbone has forgotten.
"""

from random import Random

from vl_lst.bundled import PRETRAINING_TEXT
from vl_lst.demo.captions import caption, noun_phrase, position, with_article
from vl_lst.demo.questions import questions_about
from vl_lst.demo.scenes import (
    COLOURS,
    SHAPES,
    SIZES,
    Purpose,
    Scene,
    pick,
    sample_scene,
    scene_seed,
)

__all__ = ["GENERIC_LINES", "PREFIXES", "ask", "describe", "held_out_text", "line_about"]

HELD_OUT_LINES = 256
OBJECT_COUNTS = (1, 1, 2, 2, 3, 3, 4, 5)
PREFIXES = ("vqa: ", "gqa: ", "nlvr: ", "caption: ", "")

# Ordinary questions, so that vocabulary and model cover some English beyond the shapes world.
GENERIC_LINES: tuple[str, ...] = (
    "What is in the picture?",
    "What is in this image?",
    "What can be seen in the photo?",
    "What is shown here?",
    "What do you see?",
    "What is the person doing?",
    "What is the man holding?",
    "What is the woman wearing?",
    "What kind of animal is this?",
    "What type of food is on the plate?",
    "What time of day is it?",
    "What is on the table?",
    "What is behind the tree?",
    "What is in front of the house?",
    "Who is in the photograph?",
    "Who is standing next to the car?",
    "Where is the dog?",
    "Where was this picture taken?",
    "Why is the boy smiling?",
    "Why are they looking up?",
    "When was this built?",
    "How many people are there?",
    "How many children are playing?",
    "How many of them are not white?",
    "How old is the girl?",
    "Are there any birds in the sky?",
    "Are these two the same?",
    "Are all of the shapes the same color?",
    "Are both objects large?",
    "Are there more circles than squares?",
    "Are there fewer stars than hearts?",
    "Is it day or night?",
    "Is this a dog or a cat?",
    "Is anyone in the water?",
    "Is there anything on the left side of the image?",
    "Is the street empty?",
    "Isn't there a square?",
    "Isn't the circle red?",
    "Doesn't the picture contain a star?",
    "Aren't there any triangles?",
    "Do both images show the same thing?",
    "Does this look like a city?",
    "Does the image contain nothing but circles?",
    "Can you tell what this is?",
    "Could this be a kitchen?",
    "Which of the two is bigger?",
    "Which one is closer to the center?",
    "Which object is at the bottom of the picture?",
    "The left image shows a red circle and the right image does not.",
    "One image contains exactly two squares.",
    "At least one of the images has more than three shapes.",
    "There are no blue shapes in either image.",
    "Each image contains at least one triangle.",
    "Neither of the pictures contains a heart.",
    "All of the objects are the same shape.",
    "Some of the shapes are large and others are small.",
    "A picture of several colored shapes on a plain background.",
    "An image with different objects on a light background.",
    "A man riding a bike down a street.",
    "A group of people standing in front of a building.",
    "A white cat sitting on a wooden chair.",
    "Two dogs playing with a ball on the grass.",
    "A plate of food with a fork and a knife.",
    "yes, that is true. no, that is not true.",
    "true or false? right or wrong? left or right? yes or no?",
    "zero, one, two, three, four, five, six, seven, eight, nine, ten.",
    "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10.",
    "red, green, blue, yellow, black, white, gray, grey, teal, brown, orange, purple and pink.",
    "circle, square, rectangle, triangle, star, cross, diamond, heart, ring, oval and hexagon.",
    "top, bottom, left, right, center, middle, corner, side, edge, above, below, between.",
    "small, tiny, little, large, big, huge, tall, short, wide, narrow, bigger, smaller.",
)


def line_about(seed: int) -> str:
    """Return one line, of one or more sentences, about the scene of a seed.

    Args:
        seed: Seed from `vl_lst.demo.scenes.scene_seed` for T5 pretraining.
    """
    scene = sample_scene(seed, counts=OBJECT_COUNTS)
    rng = Random(f"text {seed}")
    style = rng.random()
    if style < 0.06:
        return pick(rng, PREFIXES) + pick(rng, GENERIC_LINES)
    if style < 0.5:
        return ask(scene, rng)
    if style < 0.75:
        return describe(scene, rng)
    return f"{describe(scene, rng)} {ask(scene, rng)}"


def ask(scene: Scene, rng: Random) -> str:
    """Return one question in a task's format, or several wordings of one question."""
    first = pick(rng, questions_about(scene, rng))
    if rng.random() < 0.6:
        return pick(rng, PREFIXES) + first.text
    others = [q.text for q in questions_about(scene, rng) if q.subject == first.subject]
    return " ".join([first.text, *others])


def describe(scene: Scene, rng: Random) -> str:
    """Return a caption of the scene and one to four true statements."""
    sentences = [caption(scene, rng, max_objects=6) + "."]
    for _ in range(1 + int(rng.random() * 4)):
        sentences.append(_statement(scene, rng))
    return " ".join(sentences)


def _statement(scene: Scene, rng: Random) -> str:
    """Return a true statement about the scene, often a negated one."""
    item = pick(rng, scene.objects)
    pairs = {noun_phrase(other) for other in scene.objects}
    colour, shape = pick(rng, tuple(COLOURS)), pick(rng, SHAPES)
    opposite = SIZES[1 - SIZES.index(item.size)]
    truths = [
        f"there is {with_article(noun_phrase(item))}.",
        f"yes, there is {with_article(noun_phrase(item))} in the picture.",
        f"the image contains {with_article(noun_phrase(item))}.",
        f"{with_article(noun_phrase(item))} is present.",
        f"the color of this {item.shape} is {item.colour}.",
        f"the shape of the {item.colour} object is {with_article(item.shape)}.",
        f"one {item.shape} is {item.colour}.",
        f"one {item.colour} shape is {item.size}, not {opposite}.",
        f"{with_article(item.shape)} is in the {position(item)}.",
        f"the number of shapes is {len(scene.objects)}.",
        f"the number of {item.colour} shapes is "
        f"{sum(other.colour == item.colour for other in scene.objects)}.",
    ]
    missing = f"{colour} {shape}"
    if missing not in pairs:
        truths += [
            f"there is no {missing}.",
            f"there is not {with_article(missing)} in the image.",
            f"no, there is no {missing}.",
            f"no {missing} is present.",
            f"the image does not contain {with_article(missing)}.",
            f"the picture lacks {with_article(missing)}.",
        ]
    if colour != item.colour:
        truths += [
            f"one {item.shape} is not {colour}.",
            f"no, this {item.shape} is {item.colour}, not {colour}.",
        ]
    return pick(rng, truths)


def held_out_text() -> str:
    """Return lines like those of the pretraining that no bundled backbone has read."""
    seeds = (scene_seed(Purpose.PRETRAIN_T5_HELD_OUT, number) for number in range(HELD_OUT_LINES))
    return "".join(f"{line_about(seed)}\n" for seed in seeds)


if __name__ == "__main__":
    PRETRAINING_TEXT.write_text(held_out_text(), encoding="utf-8")
