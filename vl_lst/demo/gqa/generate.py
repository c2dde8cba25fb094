"""All GQA questions about a scene."""

from collections.abc import Iterator, Sequence
from random import Random

from vl_lst.demo.gqa.attributes import attribute_questions
from vl_lst.demo.gqa.existence import existence_questions
from vl_lst.demo.gqa.programs import Step, append_step
from vl_lst.demo.gqa.question import YES_NO, GqaQuestion, SceneView, phrasings
from vl_lst.demo.gqa.relations import relation_questions
from vl_lst.demo.scenes import Scene, pick

__all__ = ["gqa_questions_about"]

BACKGROUNDS = ("light", "dark")
# Mean channel values: at least LIGHT is a light background, at most DARK a dark one.
LIGHT, DARK = 200, 100
# Light backgrounds are far more common, so only this share of them gets a question.
LIGHT_SHARE = 0.16
VERIFY_BACKGROUND = ("Is the background {value}?", "Is this a {value} background?")


def gqa_questions_about(scene: Scene, rng: Random, object_ids: Sequence[str]) -> list[GqaQuestion]:
    """Return every question that the scene answers, some in two wordings.

    Args:
        scene: The scene.
        rng: Chooses wordings, and absent objects to ask about.
        object_ids: Ids of the scene's objects, in order.
    """
    view = SceneView(scene, object_ids)
    return [
        *existence_questions(view, rng),
        *attribute_questions(view, rng),
        *relation_questions(view, rng),
        *_background(scene, rng),
    ]


def _background(scene: Scene, rng: Random) -> Iterator[GqaQuestion]:
    means = [sum(edge) / 3 for edge in scene.background]
    if min(means) < LIGHT and max(means) > DARK:
        return
    if max(means) > DARK and rng.random() >= LIGHT_SHARE:
        return
    truth = BACKGROUNDS[max(means) <= DARK]
    asked = pick(rng, BACKGROUNDS)
    known = frozenset([f"background is {truth}"])
    program = (Step("select", "scene"),)
    question = GqaQuestion(
        kind="verify background",
        subject=asked,
        answer=YES_NO[asked != truth],
        full_answer=f"{YES_NO[asked != truth].capitalize()}, the background is {truth}.",
        program=append_step(program, "verify background", asked),
        structural="verify",
        semantic="global",
        detailed="backgroundVerify",
        stated=known,
        decided_by=(known,),
    )
    yield from phrasings(question, VERIFY_BACKGROUND, rng, value=asked)
