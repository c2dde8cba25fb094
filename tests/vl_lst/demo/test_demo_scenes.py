"""The shapes world is deterministic, and purposes do not share scenes."""

import hashlib
from random import Random

import pytest

from vl_lst.demo.captions import CAPTION_WORDS, caption
from vl_lst.demo.rendering import render
from vl_lst.demo.scenes import COLOURS, SHAPES, Purpose, holds, sample_scene, scene_seed

SCENES = [sample_scene(scene_seed(Purpose.BENCHMARK_TRAIN, n), counts=(1, 3, 6)) for n in range(60)]


def test_a_seed_determines_the_scene() -> None:
    again = [sample_scene(scene.seed, counts=(1, 3, 6)) for scene in SCENES]
    assert again == SCENES


def test_purposes_never_share_a_scene() -> None:
    """Pretraining must not see the benchmark's pictures."""
    ranges = [(scene_seed(p, 0), scene_seed(p, 2**40 - 1)) for p in Purpose]
    ordered = sorted(ranges)
    assert all(a[1] < b[0] for a, b in zip(ordered, ordered[1:], strict=False))
    drawn = [
        {sample_scene(scene_seed(purpose, n)).objects for n in range(300)} for purpose in Purpose
    ]
    assert sum(map(len, drawn)) == len(set().union(*drawn))


def test_an_index_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="scene index"):
        scene_seed(Purpose.PRETRAIN_T5, 2**40)


def test_objects_are_inside_the_picture_and_barely_overlap() -> None:
    for scene in SCENES:
        for number, a in enumerate(scene.objects):
            assert a.radius <= a.x <= 1 - a.radius
            assert a.radius <= a.y <= 1 - a.radius
            for b in scene.objects[:number]:
                assert ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5 > a.radius + b.radius


def test_relations_exclude_their_opposites() -> None:
    for scene in SCENES:
        for a in scene.objects:
            for b in scene.objects:
                assert not (holds("left of", a, b) and holds("right of", a, b))
                assert holds("above", a, b) == holds("below", b, a)


def test_a_picture_shows_each_object_in_its_colour() -> None:
    for scene in SCENES[:20]:
        image = render(scene, 128)
        assert (image.size, image.mode) == ((128, 128), "RGB")
        for item in scene.objects:
            assert image.getpixel((int(item.x * 128), int(item.y * 128))) == item.rgb


def test_rendering_is_deterministic() -> None:
    one, other = (
        hashlib.sha256(b"".join(render(s, 64).tobytes() for s in SCENES)).hexdigest()
        for _ in range(2)
    )
    assert one == other


def test_every_shape_and_colour_occurs() -> None:
    objects = [item for scene in SCENES for item in scene.objects]
    assert {item.shape for item in objects} == set(SHAPES)
    assert {item.colour for item in objects} == set(COLOURS)


def test_captions_use_only_words_of_the_text_encoder() -> None:
    rng = Random(0)
    used = {
        word
        for scene in SCENES
        for _ in range(10)
        for word in caption(scene, rng).replace(",", "").split()
    }
    assert used <= set(CAPTION_WORDS)
