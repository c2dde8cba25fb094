"""Page of the docs site with the public Python API, filled in by mkdocstrings."""

import importlib
from collections.abc import Iterator

__all__ = ["PACKAGES", "python_page"]

PACKAGES = {
    "vl_lst": "Load a run, predict and evaluate, or build a model around a backbone of your own.",
    "vl_lst.run": "A run, trained or not, and what it returns.",
    "tasks": "Tasks: examples, prompts, official files and scores. No module imports torch.",
    "eval.vqa": "VQA v2 accuracy, as the official script computes it.",
    "eval.gqa": "GQA accuracy, consistency, validity, plausibility and distribution.",
    "eval.nlvr2": "NLVR2 accuracy and consistency.",
    "eval.caption": "Caption metrics of COCO.",
    "eval.glue": "Metrics of GLUE.",
    "vl_lst.errors": "Errors caused by user input: each message says what to do.",
}
"""Public modules, with what each is for."""


def python_page() -> str:
    """Return the page in Markdown, with a directive of mkdocstrings per public name."""
    return "\n".join(["# Python", "", *_introduction(), *_packages()])


def _introduction() -> Iterator[str]:
    yield from (
        "Names on this page are public; everything else may change without notice. "
        "[In Python](../tutorials/quickstart.md) shows them at work.",
        "",
        "```python",
        "from vl_lst import load_run",
        "",
        'run = load_run("runs/vqa")',
        'run.predict(image="cat.jpg", question="what animal is this?").answer',
        "```",
        "",
    )


def _packages() -> Iterator[str]:
    seen = set()
    for package, purpose in PACKAGES.items():
        module = importlib.import_module(package)
        yield from (f"## `{package}`", "", purpose, "")
        for name in module.__all__:
            public = getattr(module, name)
            if not callable(public) or public in seen or not hasattr(public, "__qualname__"):
                continue
            seen.add(public)
            yield from (
                f"::: {public.__module__}.{public.__qualname__}",
                "    options:",
                f"      heading: {package}.{name}",
                f"      toc_label: {name}",
                "      heading_level: 3",
                "",
            )
