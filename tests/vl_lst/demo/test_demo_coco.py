"""Captions of the shapes world: official fields, five true captions per picture."""

from dataclasses import replace
from statistics import fmean

from vl_lst.demo.captions import CAPTION_WORDS
from vl_lst.demo.coco import captions_split
from vl_lst.demo.scenes import COLOURS
from vl_lst.demo.splits import SPLITS
from vl_lst.demo.vqa import vqa_split

SPLIT = replace(SPLITS[1], images=60)


def test_documents_have_the_official_fields() -> None:
    document = captions_split(SPLIT)
    assert document.keys() == {"info", "type", "images", "licenses", "annotations"}
    image = document["images"][0]
    assert (image["id"], image["file_name"]) == (100_001, "COCO_val2014_000000100001.jpg")
    assert (image["height"], image["width"]) == (128, 128)


def test_caption_ids_are_unique_across_splits() -> None:
    ids = [each["id"] for split in SPLITS for each in captions_split(split)["annotations"]]
    assert len(set(ids)) == len(ids) == 5 * sum(split.images for split in SPLITS)


def test_captions_are_about_the_pictures_of_vqa() -> None:
    questions, _ = vqa_split(SPLIT)
    pictured = {image["id"] for image in captions_split(SPLIT)["images"]}
    assert {question["image_id"] for question in questions["questions"]} <= pictured


def test_each_picture_has_five_captions_that_name_only_what_it_shows() -> None:
    captions: dict[int, list[str]] = {}
    for annotation in captions_split(SPLIT)["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for number in range(SPLIT.images):
        texts = captions[SPLIT.first_image_id + number]
        assert len(texts) == 5
        shown = {item.colour for item in SPLIT.scene(number).objects}
        for text in texts:
            assert text[0].isupper()
            assert text.endswith(".")
            words = set(text[:-1].lower().replace(",", "").split())
            assert words <= set(CAPTION_WORDS)
            assert words & set(COLOURS) <= shown
    # A picture of one object has few: people agree on it.
    distinct = [len(set(texts)) for texts in captions.values()]
    assert min(distinct) >= 2
    assert fmean(distinct) > 3.5
