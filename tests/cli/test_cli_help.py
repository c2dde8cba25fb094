"""Help texts list what there is: generated, so that nothing new has to be written there."""

from pathlib import Path
from typing import get_args

import pytest
import typer

from feature_extraction.encoders.table import ENCODERS
from tasks import Head, task_names
from vl_lst.backbones.t5_sizes import shape_names
from vl_lst.choices import ArithmeticPrecision, BackbonePrecision, DeviceName, module_names
from vl_lst.cli import app
from vl_lst.methods import method_names


def option(*path: str) -> str:
    """The help text and metavar of an option, such as that of `train --method`."""
    *commands, flag = path
    command = typer.main.get_command(app)
    for name in commands:
        command = command.commands[name]  # type: ignore[attr-defined]
    (found,) = (each for each in command.params if flag in each.opts)
    return f"{found.metavar or ''} {getattr(found, 'help', '')}"


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (("train", "--method"), method_names()),
        (("profile", "--methods"), method_names()),
        (("demo", "--methods"), method_names()),
        (("train", "--task"), task_names()),
        (("score", "--task"), task_names()),
        (("data", "check", "--task"), task_names()),
        (("extract-features", "--encoder"), [*ENCODERS, "demo"]),
        (("profile", "--backbone"), [*shape_names(), "demo"]),
        (("train", "--head"), get_args(Head)),
        (("train", "--backbone-precision"), get_args(BackbonePrecision)),
        (("profile", "--backbone-precision"), get_args(BackbonePrecision)),
        (("profile", "--precision"), get_args(ArithmeticPrecision)),
        (("profile", "--device"), get_args(DeviceName)),
    ],
)
def test_an_option_lists_all_it_can_be(path: tuple[str, ...], names: list[str]) -> None:
    listed = option(*path)
    assert [name for name in names if name not in listed] == []


def test_a_file_is_enough_to_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "package_of_methods"
    folder.mkdir()
    for name in ("__init__", "vera", "_shared"):
        (folder / f"{name}.py").write_text("raise SystemExit('imported')" if name == "vera" else "")
    monkeypatch.syspath_prepend(tmp_path)
    assert module_names("package_of_methods") == ["vera"]
    assert module_names("vl_lst.methods") == method_names()
