"""Atomic outputs; special files are written instead of replaced."""

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from eval.errors import OutputError
from eval.files import read_json
from eval.outputs import TEMPORARY_SUFFIX, atomic_path, check_output, write_json

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="creating device nodes requires root")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    write_json(file, {"accuracy": 1})

    def write_half() -> None:
        with atomic_path(file) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert read_json(file, expected="scores") == {"accuracy": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_json_never_contains_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "scores.json", {"accuracy": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_json_escapes_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.jpg")
    write_json(tmp_path / "failures.json", {name: "unreadable"})
    assert json.loads((tmp_path / "failures.json").read_bytes()) == {name: "unreadable"}


def test_a_link_is_kept_and_its_target_replaced(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "results" / "scores.json"
    target.write_text("old")
    link = tmp_path / "elsewhere" / "link.json"
    link.symlink_to("../results/scores.json")
    write_json(link, {"accuracy": 1})
    assert link.is_symlink()
    assert read_json(target, expected="scores") == {"accuracy": 1}
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["link.json"]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["scores.json"]


def test_the_target_of_a_dangling_link_is_created(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to("later/scores.json")
    write_json(link, 1)
    assert link.is_symlink()
    assert (tmp_path / "later" / "scores.json").read_text() == "1\n"


def test_permissions_of_the_replaced_file_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "private.json"
    file.write_text("old")
    file.chmod(0o600)
    write_json(file, 1)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_pipe_is_written_and_kept(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {"accuracy": 1}, indent=None)
    reader.join(30)
    assert received == ['{"accuracy": 1}\n']
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def make_device(path: Path, minor: int) -> None:
    """Create a memory device node: 3 is `/dev/null`, 7 is `/dev/full`."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    try:
        path.write_bytes(b"")
    except PermissionError:
        pytest.skip("device nodes cannot be opened in the temporary folder")


@needs_root
@pytest.mark.parametrize("through_link", [False, True])
def test_a_device_is_written_and_kept(tmp_path: Path, through_link: bool) -> None:
    device = path = tmp_path / "null"
    make_device(device, 3)
    if through_link:
        path = tmp_path / "link"
        path.symlink_to(device)
    write_json(path, {"accuracy": 1})
    assert stat.S_ISCHR(device.stat().st_mode)
    assert path.is_symlink() == through_link


@needs_root
def test_a_full_device_is_reported_with_the_user_s_path(tmp_path: Path) -> None:
    make_device(tmp_path / "full", 7)
    with pytest.raises(OutputError, match=r"cannot write .*/full: no space left on the device"):
        write_json(tmp_path / "full", {"accuracy": 1})


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_redirected_standard_output_keeps_earlier_output(tmp_path: Path, name: str) -> None:
    if not Path(name).exists():
        pytest.skip(f"no {name} on this system")
    code = (
        "from pathlib import Path; from eval.outputs import write_json\n"
        f"print('before'); write_json(Path({name!r}), 1); print('after')"
    )
    out = tmp_path / "out.txt"
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert out.read_text() == "before\n1\nafter\n"


def test_unwritable_paths_are_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.close()
    for path, message in {
        tmp_path: "is a folder: expected the path of a file to write",
        tmp_path / "file" / "x.json": "file is a file, expected a folder",
        tmp_path / "file" / "y" / "x.json": "file is a file, expected a folder",
        tmp_path / "loop": "Too many levels of symbolic links",
        tmp_path / "socket": "is a socket",
        tmp_path / ("x" * 300): "File name too long",
        tmp_path / "a\0b": "null",
    }.items():
        with pytest.raises(OutputError, match=message):
            check_output(path)
        with pytest.raises(OutputError, match=message), atomic_path(path):
            pytest.fail("the block must not run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission"):
        check_output(tmp_path / "sub" / "x.json")


def test_checking_creates_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "scores.json")
    assert list(tmp_path.iterdir()) == []


def test_messages_never_name_the_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError) as raised:
        write_json(tmp_path / "scores.json", 1)
    assert str(raised.value).startswith(f"cannot write {tmp_path / 'scores.json'}: no space left")
    assert TEMPORARY_SUFFIX not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_errors_about_other_files_are_not_attributed_to_the_output(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"source\.json"),
        atomic_path(tmp_path / "copy.json") as temporary,
    ):
        shutil.copyfile(tmp_path / "source.json", temporary)


def test_files_of_killed_writers_are_removed_and_live_ones_kept(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from eval.outputs import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "scores.json")], check=False)
    (leftover,) = tmp_path.iterdir()
    with atomic_path(tmp_path / "live.json") as live:
        assert not leftover.exists()
        assert live.exists()
        write = "from pathlib import Path; from eval.outputs import write_json; import sys\n"
        write += "write_json(Path(sys.argv[1]), 1)"
        subprocess.run([sys.executable, "-c", write, str(tmp_path / "x.json")], check=True)
        assert live.exists()


def test_an_unwritable_descriptor_is_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("kept")
    handle = os.open(tmp_path / "x", os.O_RDONLY)
    with pytest.raises(OutputError, match="open for reading only"):
        check_output(Path(f"/dev/fd/{handle}"))
    os.close(handle)
    with pytest.raises(OutputError, match="cannot write"):
        check_output(Path(f"/dev/fd/{handle}"))
