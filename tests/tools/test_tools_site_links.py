"""Links of the documents lead to pages of the docs site."""

import pytest

from tools.site_links import rewrite_links

TITLES = {"training.md": "Training", "tutorials/quickstart.md": "In Python"}


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](../training.md#resuming)", "[a](../training.md#resuming)"),
        ("[training.md](../training.md#heads)", "[Training](../training.md#heads)"),
        ("[q.ipynb](../../notebooks/quickstart.ipynb)", "[In Python](../tutorials/quickstart.md)"),
        ("[lora.md](lora.md)", "[lora.md](lora.md)"),
        ("[a](lora.md)", "[a](lora.md)"),
        ("![a](../demo.png)", "![a](../demo.png)"),
        ("[a](../../README.md#choose-a-backbone)", "[a](../overview.md#choose-a-backbone)"),
        ("[a](../../CONTRIBUTING.md)", "[a](../contributing.md)"),
        ("[a](../../notebooks/quickstart.ipynb)", "[a](../tutorials/quickstart.md)"),
        ("[`table.py`](../../feature_extraction/encoders/table.py)", "`table.py`"),
        ("[a](../../LICENSE)", "a"),
        ("[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
        ("[a](#options)", "[a](#options)"),
        ("`[a](../../LICENSE)`", "`[a](../../LICENSE)`"),
        ("```\n[a](../../LICENSE)\n```", "```\n[a](../../LICENSE)\n```"),
    ],
)
def test_links_of_a_page_of_docs(link: str, expected: str) -> None:
    source, page = "docs/methods/lst.md", "methods/lst.md"
    assert rewrite_links(link, source=source, page=page, titles=TITLES) == expected


def test_links_of_a_document_at_the_root() -> None:
    text = "![p](docs/demo.png) [m](docs/methods/README.md#fair-memory) [c](CONTRIBUTING.md)"
    expected = "![p](demo.png) [m](methods/README.md#fair-memory) [c](contributing.md)"
    assert rewrite_links(text, source="README.md", page="overview.md", titles={}) == expected
