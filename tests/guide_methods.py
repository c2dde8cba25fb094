"""The methods in the guide for new methods."""

import re
from pathlib import Path
from types import ModuleType

from vl_lst.methods import Method

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "adding_a_method.md"


def guide_methods() -> dict[str, Method]:
    """Return the method of each code block by the name of its class."""
    methods: dict[str, Method] = {}
    for code in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        module = ModuleType("vl_lst.methods.guide")
        exec(compile(code, str(GUIDE), "exec"), module.__dict__)
        methods[type(module.METHOD).__name__] = module.METHOD
    return methods
