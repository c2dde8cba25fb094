"""The lists of official files, and the check of a data root."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from eval.errors import InputError
from tasks import Task, get_task
from tasks._data_check import check_files, check_split
from tasks._files import DataFile

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"


class Store:
    def __init__(self, *images: str) -> None:
        self._images = set(images)

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        return [image for image in image_ids if image not in self._images]


def test_every_split_has_a_file_and_a_size(task: Task) -> None:
    needed = {split for file in task.files if not file.optional for split in file.splits}
    assert needed == set(task.splits) == set(task.sizes)
    paths = [file.path for file in task.files]
    assert len(set(paths)) == len(paths)
    assert {path for file in task.files for path in file.derived_from} <= set(paths)


def test_addresses_name_files(task: Task) -> None:
    for file in task.files:
        assert bool(file.derived_from) == file.address.startswith("made by")
        if file.source is not None:
            assert file.source.url.startswith(("https://", "http://images.cocodataset.org/"))
            assert file.source.name.endswith((".zip", ".json", ".tsv", ".txt"))


def test_fixtures_are_smaller_than_published(task: Task) -> None:
    for split in task.splits:
        state = check_split(task, FIXTURES / task.name, split, None)
        if state.problem is None:
            assert state.examples
            assert not state.is_published_size


def test_a_missing_file_is_named_with_its_address(tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(FIXTURES / "vqa", root)
    (root / "vqa/v2_mscoco_val2014_annotations.json").unlink()
    state = check_split(get_task("vqa"), root, "val2014", None)
    assert state.examples is None
    assert state.problem is not None
    assert "v2_mscoco_val2014_annotations.json (https://s3.amazonaws.com/" in state.problem
    assert check_split(get_task("vqa"), root, "train2014", None).problem is None


def test_the_files_that_an_alternative_requires_are_named(tmp_path: Path) -> None:
    """MRPC's corpus is read in place of train.tsv only together with the IDs of dev."""
    folder = tmp_path / "glue/MRPC"
    folder.mkdir(parents=True)
    shutil.copyfile(FIXTURES / "mrpc/glue/MRPC/train.tsv", folder / "msr_paraphrase_train.txt")
    for split in ("train", "dev"):
        problem = check_split(get_task("mrpc"), tmp_path, split, None).problem
        assert problem is not None
        assert problem.startswith(f"{split} needs glue/MRPC/dev_ids.tsv (https://")


def test_a_damaged_file_is_reported_as_a_problem_of_the_split(tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(FIXTURES / "nlvr2", root)
    with (root / "nlvr2/dev.json").open("ab") as file:
        file.write(b'{"identifier": ')
    problem = check_split(get_task("nlvr2"), root, "dev", None).problem
    assert problem is not None
    assert "not valid JSON" in problem


def test_images_without_features_are_counted() -> None:
    task, root = get_task("nlvr2"), FIXTURES / "nlvr2"
    images = task.load(root, "dev").image_ids()
    complete = check_split(task, root, "dev", Store(*images))
    assert (complete.missing_images, complete.problem) == ([], None)
    incomplete = check_split(task, root, "dev", Store(*images[1:]))
    assert incomplete.missing_images == images[:1]
    assert incomplete.problem is not None
    assert incomplete.problem.startswith(f"1 of the {len(images)} images of dev")


def test_alternatives_and_folders_of_chunks_are_found(tmp_path: Path) -> None:
    folder = DataFile(path="gqa/all/", splits=("all",), alternatives=("gqa/all.json",))
    assert folder.find(tmp_path) is None
    (tmp_path / "gqa" / "all").mkdir(parents=True)
    assert folder.find(tmp_path) is None
    (tmp_path / "gqa" / "all.json").write_text("{}")
    assert folder.find(tmp_path) == tmp_path / "gqa" / "all.json"
    (tmp_path / "gqa" / "all" / "all_0.json").write_text("{}")
    assert folder.find(tmp_path) == tmp_path / "gqa" / "all"


def test_file_sizes_are_reported() -> None:
    root = FIXTURES / "vqa"
    states = {state.file.path: state for state in check_files(get_task("vqa"), root)}
    path = "vqa/v2_mscoco_val2014_annotations.json"
    assert states[path].size == (root / path).stat().st_size
    assert states["vqa/trainval_label2ans.json"].found is None


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(InputError, match="no split 'nope'"):
        check_split(get_task("vqa"), FIXTURES / "vqa", "nope", None)


def test_only_derived_files_are_made_by_prepare() -> None:
    private = DataFile(path="mine/train.json", splits=("train",))
    assert private.address == "no public address"
    derived = DataFile(path="mine/train.json", splits=("train",), derived_from=("mine/all.json",))
    assert derived.address == "made by `vl-lst data prepare`"
