"""Page of the docs site with the quickstart notebook."""

import json
from collections.abc import Iterator
from pathlib import Path

__all__ = ["notebook_page"]

SHELL = "%%bash\n"


def notebook_page(notebook: Path) -> str:
    """Return a notebook in Markdown, without outputs."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _parts(cell)) + "\n"


def _parts(cell: dict[str, object]) -> Iterator[str]:
    source = cell["source"]
    text = source if isinstance(source, str) else "".join(source)  # type: ignore[arg-type]
    if cell["cell_type"] == "markdown":
        yield text
    elif text.startswith(SHELL):
        yield f"```bash\n{text.removeprefix(SHELL).strip()}\n```"
    else:
        yield f"```python\n{text.strip()}\n```"
