"""Pages of the docs site with the public Python API, filled in by mkdocstrings."""

import importlib
import inspect
from collections.abc import Iterator

__all__ = ["API_PAGES", "python_page"]

API_PAGES = {
    "reference/python_vl_lst.md": (
        "vl_lst",
        "Load a run, predict and evaluate, or build a model around a backbone of your own. "
        "[In Python](../tutorials/quickstart.md) shows it at work. Each name is imported on first "
        "use, so `import vl_lst` is fast.",
        ("vl_lst", "vl_lst.run", "vl_lst.errors"),
    ),
    "reference/python_tasks.md": (
        "tasks",
        "Tasks: official files, examples, prompts and scores. No module imports torch.",
        ("tasks",),
    ),
    "reference/python_eval.md": (
        "eval",
        "Official metrics as plain functions, without torch or a model. "
        "[Official scorers](../scorers.md) shows them at work.",
        ("eval.vqa", "eval.gqa", "eval.nlvr2", "eval.caption", "eval.glue"),
    ),
}
"""Pages, with their titles, introductions and modules; what a module's `__all__` names is public.
"""


def python_page(title: str, introduction: str, modules: tuple[str, ...]) -> str:
    """Return a page in Markdown, with a directive of mkdocstrings per public name."""
    return "\n".join([f"# `{title}`", "", introduction, "", *_directives(modules)])


def _directives(modules: tuple[str, ...]) -> Iterator[str]:
    seen = set()
    for module_name in modules:
        if len(modules) > 1:
            yield from (f"## `{module_name}`", "")
        module = importlib.import_module(module_name)
        public = {name: getattr(module, name) for name in module.__all__}
        documented = {
            name: each
            for name, each in public.items()
            if (inspect.isclass(each) or inspect.isfunction(each)) and each not in seen
        }
        seen |= set(documented.values())
        # Most readers look for a function.
        for name, each in sorted(documented.items(), key=lambda item: inspect.isclass(item[1])):
            yield from (
                f"::: {each.__module__}.{each.__qualname__}",
                "    options:",
                f"      heading: {module_name}.{name}",
                f"      toc_label: {name}",
                "      heading_level: 3",
                "",
            )
