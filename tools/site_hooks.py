"""Hooks of MkDocs: pages that are generated, links between documents, and formulas.

The command line and the Python API come from the code; the documents at the root of the repository
and the notebook are pages too.
"""

import re
import sys
from pathlib import Path
from typing import Any

from markdown import Extension, Markdown
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parent.parent
# MkDocs imports this file by its path.
sys.path.insert(0, str(REPOSITORY))

from tools.site_command_line import command_line_page  # noqa: E402
from tools.site_formulas import formulas_to_mathml  # noqa: E402
from tools.site_links import OTHER_PAGES, rewrite_links  # noqa: E402
from tools.site_notebook import notebook_page  # noqa: E402
from tools.site_python import API_PAGES, python_page  # noqa: E402

__all__ = ["on_config", "on_files", "on_page_content", "on_page_markdown", "on_post_page"]

LIST_INDENT = 2
CODE_IN_CELL = re.compile(r"<td\b[^>]*>.*?</td>", re.DOTALL)
# `link` elements that name the address of the page itself fetch nothing.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//[^"]*"|"""
    r"""<link\b(?![^>]*rel="canonical")[^>]*\bhref="(?:https?:)?//[^"]*\""""
)


class _GitHubLists(Extension):  # type: ignore[misc]
    """Lists whose items continue with an indent of two spaces, as on GitHub."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Set the indent; Python-Markdown's own is 4."""
        md.tab_length = LIST_INDENT


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read lists as GitHub does."""
    config.markdown_extensions.append(_GitHubLists())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files in `docs/`."""
    titles = _titles(config.nav)
    pages = {name: python_page(*page) for name, page in API_PAGES.items()}
    pages["reference/command_line.md"] = command_line_page()
    for source, name in OTHER_PAGES.items():
        path = REPOSITORY / source
        is_notebook = path.suffix == ".ipynb"
        text = notebook_page(path) if is_notebook else path.read_text(encoding="utf-8")
        pages[name] = rewrite_links(text, source=source, page=name, titles=titles)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a document lead to pages."""
    if page.file.generated_by is not None:
        return markdown
    name = page.file.src_uri
    return rewrite_links(markdown, source=f"docs/{name}", page=name, titles=_titles(config.nav))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert formulas to MathML, and show pipes in the code of tables as GitHub does."""
    return CODE_IN_CELL.sub(lambda match: match[0].replace(r"\|", "|"), formulas_to_mathml(html))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse pages that would fetch something from the network.

    Raises:
        PluginError: A page refers to a script, style sheet, font or image elsewhere.
    """
    if match := FETCHED.search(output):
        raise PluginError(
            f"{page.file.src_uri}: found {match[0]}, which a browser fetches from the network; "
            "expected a file of the site"
        )
    return output


def _titles(navigation: Any) -> dict[str, str]:
    """Return the titles of pages in the navigation, by their paths."""
    found: dict[str, str] = {}
    for entry in navigation:
        if not isinstance(entry, dict):
            continue
        for title, target in entry.items():
            if isinstance(target, str):
                found[target] = title
                continue
            # The page of a section has no title of its own.
            found |= {each: title for each in target if isinstance(each, str)} | _titles(target)
    return found
