"""Tables between two comments of a document, which a tool keeps in step with the code."""

from collections.abc import Iterable

__all__ = ["replace_marked"]


def replace_marked(text: str, mark: str, rows: Iterable[str]) -> str:
    """Return a document with other lines between the two comments of a mark.

    Args:
        text: Document in Markdown.
        mark: Name in the comments `<!-- NAME: start -->` and `<!-- NAME: end -->`.
        rows: Lines of the table.

    Raises:
        ValueError: The document lacks one of the comments.
    """
    start, end = f"<!-- {mark}: start -->\n", f"<!-- {mark}: end -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"found no comments {start.strip()} and {end}: expected both")
    table = "\n".join(rows)
    return f"{before}{start}\n{table}\n\n{end}{after}"
