"""The paper's permutations, which need no data."""

import hashlib

import pytest

from tasks import get_task
from tasks._glue_splits import HALVES_OF_DEV, HELD_OUT_OF_TRAIN, permutation

# Task: (size of the official split, number of validation examples, first ten of them, SHA-256 of
# their indices in decimal with commas between them, and that of the rest).
PERMUTATIONS = {
    "cola": (
        1043,
        521,
        [911, 408, 813, 657, 710, 526, 977, 467, 768, 440],
        "77e69c891c8b5ddb25580dd8eb1838b019f95a71d792d61cc20f06e44ad58fb7",
        "e0188db06e3038681f8723a0507fdaccc85f2834557865060d7c967595e0f944",
    ),
    "mrpc": (
        408,
        204,
        [30, 63, 342, 322, 6, 302, 94, 83, 158, 212],
        "a867b9404d73686f27df9aa5324da154c59cc797bfc6fec8ffe7af2bbe255131",
        "a9023bf97593e6949d7d17f3df4cb9d19ddcfcec998d8fbafd1b53464bddde81",
    ),
    "rte": (
        277,
        138,
        [207, 84, 253, 243, 190, 28, 165, 111, 87, 170],
        "5cda11090bb02ddf90b10d3f94bc5c1614b8240db119d263c136d6ae56b5c306",
        "f6349cadb888990b7ee5ff3289a2e54eeb182473d4ff455c85655d4eafda9471",
    ),
    "stsb": (
        1500,
        750,
        [42, 340, 1028, 766, 1150, 1160, 1300, 791, 458, 989],
        "a159026044c855f72fd834764aff10ed452e3c9e8b366cc69a620923be848c2b",
        "05589f05d7f7fc38bf09e86409b7fa64b663bbfa12dc02eec40be1da7f411610",
    ),
    "sst2": (
        67349,
        1000,
        [6677, 49712, 38268, 32909, 23395, 66940, 62886, 11359, 52008, 24222],
        "047aa919c837d79f93d86441607ccfe92231eab19a8bf74603b3c4868083663e",
        "3bcb85450e5b03c7071d9081913f48c20d41294710e1ab9b32904a096f0665d8",
    ),
    "qnli": (
        104743,
        1000,
        [99291, 42864, 63734, 96877, 44206, 64004, 30013, 38331, 428, 90134],
        "6f663c7187d02812511722f009dd75174d2af293ae494a099a047e7784c8ca19",
        "62379d3186dc0d38390cf0c900d7115cf5593b7b0f947845b50d454b012a78a6",
    ),
    "qqp": (
        363846,
        1000,
        [74376, 255378, 229510, 126322, 295150, 318617, 325186, 206176, 269200, 326828],
        "399b9ac162f0223a30e0c2758b8ec7670aacd546353d08e6b130f4794fba89a5",
        "bde5743ac5b2b261b3c7dfe2e53b39bb3a7b95b48f34e87de772c0ffb89cc5a9",
    ),
}


def digest(indices: list[int]) -> str:
    return hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest()


@pytest.mark.parametrize("name", PERMUTATIONS)
def test_permutations_are_those_of_the_reference(name: str) -> None:
    size, num_first, beginning, first, rest = PERMUTATIONS[name]
    order = permutation(size)
    assert order[:10] == beginning
    assert (digest(order[:num_first]), digest(order[num_first:])) == (first, rest)


@pytest.mark.parametrize("name", PERMUTATIONS)
def test_the_splits_of_a_task_are_parts_of_the_permutation(name: str) -> None:
    size, num_first, _, first, rest = PERMUTATIONS[name]
    is_small = name in ("cola", "mrpc", "rte", "stsb")
    parts = HALVES_OF_DEV if is_small else HELD_OUT_OF_TRAIN
    assert digest(list(parts["paper_validation"].select(range(size)))) == first
    others = "paper_test" if is_small else "paper_train"
    assert digest(list(parts[others].select(range(size)))) == rest
    sizes = get_task(name).sizes
    assert sizes[parts[others].official].examples == size
    assert sizes["paper_validation"].examples == num_first
    assert sizes[others].examples == size - num_first
    whole = parts["paper_train" if is_small else "paper_test"]
    assert list(whole.select(range(7))) == list(range(7))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 1000])
def test_permutations_are_those_of_torch(size: int) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.randperm(size, generator=torch.Generator().manual_seed(42)).tolist()
    assert permutation(size) == expected
