"""Links of the documents, as they are on the docs site.

On GitHub, documents link to each other and to code by paths in the repository. The site has only
`docs/` and a few documents outside of it, under other names.
"""

import os.path
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

__all__ = ["OTHER_PAGES", "rewrite_links"]

OTHER_PAGES = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "notebooks/quickstart.ipynb": "tutorials/quickstart.md",
}
"""Pages of documents outside of `docs/`, by their paths in the repository."""

DOCS = PurePosixPath("docs")
DOCUMENT_NAME = re.compile(r"`?[\w/-]+(\.md|\.ipynb|/)`?|README|CONTRIBUTING|CHANGELOG")
# A fenced block, inline code, or a link to a path; only the last has groups.
PATTERN = re.compile(
    r"^(?P<indent> *)(?P<fence>```+).*?^(?P=indent)(?P=fence)$|`[^`\n]+`(?!\])"
    r"|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)",
    re.DOTALL | re.MULTILINE,
)


def rewrite_links(text: str, *, source: str, page: str, titles: Mapping[str, str]) -> str:
    """Return a document whose links lead to pages of the site.

    Links to other files of the repository, such as code, become their text. Links that show the
    name of a document show the title of its page.

    Args:
        text: Document in Markdown.
        source: Path of the document in the repository.
        page: Path of its page below `docs/`.
        titles: Titles of pages, by their paths below `docs/`.
    """

    def rewritten(match: re.Match[str]) -> str:
        if match["path"] is None:
            return match[0]
        folder = PurePosixPath(source).parent
        target = PurePosixPath(os.path.normpath(folder / match["path"]))
        place = OTHER_PAGES.get(str(target))
        if place is None and target.is_relative_to(DOCS):
            place = str(target.relative_to(DOCS))
        if place is None:
            return match["text"]
        shown = match["text"]
        if DOCUMENT_NAME.fullmatch(shown):
            shown = titles.get(place, shown)
        path = os.path.relpath(place, PurePosixPath(page).parent)
        return f"{match['image']}[{shown}]({path}{match['anchor'] or ''})"

    return PATTERN.sub(rewritten, text)
