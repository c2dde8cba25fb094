"""Links and paths in the documents lead somewhere."""

import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
# Paths such as `vl_lst/methods/lst.py`.
CODE_PATHS = re.compile(
    r"(?<![\w/.-])(?:benchmarks|eval|feature_extraction|tasks|tests|tools|vl_lst)/[\w./-]*"
)

# An address with a host that has a dot, without spaces, brackets or a period at its end.
EXTERNAL_LINK = re.compile(r"https?://[\w-]+(\.[\w-]+)+(:\d+)?(/[^\s<>()\[\]]*)?(?<![.,;:])")


def anchors(text: str) -> set[str]:
    """Anchors of the headings of a Markdown text, as GitHub makes them."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def broken_links(document: Path, text: str) -> list[str]:
    """Links of a Markdown text to missing files or headings."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        if not path.exists() or (anchor and anchor not in anchors(path.read_text("utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    assert broken_links(document, document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_paths_of_the_repository_exist(document: Path) -> None:
    paths = CODE_PATHS.findall(document.read_text(encoding="utf-8"))
    invented = re.compile(r"NAME|/colors\.py")  # the guides' examples
    missing = [path for path in paths if not (REPOSITORY / path.rstrip(".")).exists()]
    assert [path for path in missing if not invented.search(path)] == []


def test_every_guide_is_in_the_index() -> None:
    docs = REPOSITORY / "docs"
    index = (docs / "README.md").read_text(encoding="utf-8")
    paths = [*docs.glob("*.md"), *(docs / "tutorials").glob("*.md")]
    guides = {path.relative_to(docs).as_posix() for path in paths} - {"README.md"}
    assert [name for name in guides if f"({name})" not in index] == []


def test_every_document_is_in_the_navigation_of_the_site() -> None:
    docs = REPOSITORY / "docs"
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = set(re.findall(r"[\w/-]+\.md", navigation))
    assert {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} - listed == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_external_links_are_well_formed(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" in target]
    assert [link for link in links if not EXTERNAL_LINK.fullmatch(link)] == []


def test_links_of_the_notebook_lead_to_files() -> None:
    path = REPOSITORY / "notebooks" / "quickstart.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert broken_links(path, text) == []


def test_the_check_of_links_can_fail() -> None:
    text = (
        "[a](docs/none.md) [b](README.md#no-such-heading) [c](https://example.org) [d](README.md)"
    )
    found = broken_links(REPOSITORY / "README.md", text)
    assert found == ["docs/none.md", "README.md#no-such-heading"]
