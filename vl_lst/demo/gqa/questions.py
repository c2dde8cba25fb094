"""Questions about scenes in the manner of GQA."""

from collections.abc import Iterator, Sequence
from random import Random

from vl_lst.demo.gqa.asking import YES_NO, GqaQuestion, SceneView, worded
from vl_lst.demo.gqa.attributes import attribute_questions
from vl_lst.demo.gqa.existence import existence_questions
from vl_lst.demo.gqa.programs import Step, then
from vl_lst.demo.gqa.relations import relation_questions
from vl_lst.demo.scenes import Scene, pick

__all__ = ["gqa_questions_about"]

BACKGROUNDS = ("light", "dark")
# Mean channel values from which on a background is light, and up to which it is dark.
LIGHT, DARK = 200, 100
# Light ones are so much more common that only this share of them is asked about.
LIGHT_SHARE = 0.16
VERIFY_BACKGROUND = ("Is the background {value}?", "Is this a {value} background?")


def gqa_questions_about(scene: Scene, rng: Random, object_ids: Sequence[str]) -> list[GqaQuestion]:
    """Return questions of every kind the scene has an answer to, some in two wordings.

    Args:
        scene: What the picture shows.
        rng: Chooses wordings, and what to ask about among the things that are not there.
        object_ids: Ids of the scene's objects.
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
        program=then(program, "verify background", asked),
        structural="verify",
        semantic="global",
        detailed="backgroundVerify",
        told=known,
        settled_by=(known,),
    )
    yield from worded(question, VERIFY_BACKGROUND, rng, value=asked)
