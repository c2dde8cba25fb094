"""Which examples are not independent of each other."""

from pathlib import Path

from tasks import Example, get_task, with_own_files
from tasks._clusters import find_clusters


def example(id_: str, *images: str, text: str = "is it red?") -> Example:
    return Example(id_, images, f"task: {text}", (), prefix="task: ")


def test_questions_about_an_image_are_a_cluster_in_all_tasks() -> None:
    examples = [example("1", "a"), example("2", "b"), example("3", "a", text="where is it?")]
    expected = {"1": "a", "2": "b", "3": "a"}
    assert find_clusters(get_task("vqa"), examples) == expected
    assert find_clusters(get_task("caption"), examples) == expected


def test_statements_of_a_set_are_a_cluster() -> None:
    """The pairs of a set show images of one search, and each sentence is judged for all of them."""
    ids = ("dev-1-0-0", "dev-1-1-0", "dev-1-0-1", "dev-10-0-0")
    clusters = find_clusters(
        get_task("nlvr2"), [example(id_, f"{id_}-img0", f"{id_}-img1") for id_ in ids]
    )
    assert clusters == dict(zip(ids, ("nlvr2 dev-1",) * 3 + ("nlvr2 dev-10",), strict=True))


def test_own_pairs_that_share_an_image_are_a_cluster() -> None:
    task = with_own_files(get_task("nlvr2"), {"train": Path("train.jsonl")})
    examples = [example("p", "a", "b"), example("q", "c", "d"), example("r", "b", "e")]
    assert find_clusters(task, examples) == {"p": "a", "q": "c", "r": "a"}
    # An example may connect others that share nothing.
    examples.append(example("s", "e", "c"))
    assert set(find_clusters(task, examples).values()) == {"a"}


def test_texts_that_share_a_sentence_are_a_cluster() -> None:
    texts = {
        "0": "premise: It rains. hypothesis It is wet.",
        "1": "premise: It snows. hypothesis It is cold.",
        "2": "premise: It rains. hypothesis It is dry.",
    }
    clusters = find_clusters(
        get_task("mnli"), [example(id_, text=text) for id_, text in texts.items()]
    )
    assert clusters["0"] == clusters["2"] != clusters["1"]
    alone = find_clusters(get_task("sst2"), [example("0", text="fine"), example("1", text="bad")])
    assert len(set(alone.values())) == 2
