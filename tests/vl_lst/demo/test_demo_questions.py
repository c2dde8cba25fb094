"""Each question about a scene has one answer, whatever the random generator."""

from random import Random

from vl_lst.demo.questions import ANSWERS, questions_about
from vl_lst.demo.scenes import (
    BENCHMARK_COLOURS,
    BENCHMARK_SHAPES,
    Purpose,
    sample_scene,
    scene_seed,
)


def test_questions_have_one_answer_each() -> None:
    for number in range(200):
        scene = sample_scene(
            scene_seed(Purpose.BENCHMARK_VAL, number),
            counts=(1, 2, 3, 4),
            shapes=BENCHMARK_SHAPES,
            colours=BENCHMARK_COLOURS,
        )
        colours = {item.colour for item in scene.objects}
        for question in questions_about(scene, Random(number)):
            assert question.answer in ANSWERS
            assert question.text.endswith("?")
            if question.kind == "colour":
                assert question.answer in colours
