"""Output paths: what may exist there, links, locks, and leftovers of killed processes."""

import ast
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from plain_stores import features_of, write_store

import feature_extraction
from feature_extraction.errors import FeatureError, LockError, StoreError
from feature_extraction.exchange.compression import compress_store
from feature_extraction.exchange.exporting import export_features
from feature_extraction.exchange.importing import import_features
from feature_extraction.exchange.join import join_stores
from feature_extraction.store import open_features
from feature_extraction.store.outputs import (
    atomic_output,
    check_output_file,
    locked_folder,
    partial_folder,
)
from feature_extraction.store.store import FeatureStore

Writing = Callable[[Path, Path], object]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with two stores and a folder of features to import."""
    folder = tmp_path / "work"
    (folder / "source").mkdir(parents=True)
    write_store(folder / "one.h5", ["a", "bad", "c"])
    write_store(folder / "two.h5", ["x", "y"], seed=1)
    np.save(folder / "source" / "a.npy", features_of(1)[0])
    return folder


FILES: dict[str, Writing] = {
    "compress": lambda work, out: compress_store(work / "one.h5", out),
    "join": lambda work, out: join_stores([work / "one.h5", work / "two.h5"], out),
    "copy": lambda work, out: join_stores([work / "one.h5", work / "two.h5"], out, copy=True),
    "import": lambda work, out: import_features(work / "source", out),
}
FOLDERS: dict[str, Writing] = {
    "h5": lambda work, out: export_features(FeatureStore(work / "one.h5"), out, "h5"),
    "arrow": lambda work, out: export_features(FeatureStore(work / "one.h5"), out, "arrow"),
}
ALL = FILES | FOLDERS


def is_special(path: Path) -> bool:
    return not stat.S_ISREG(path.lstat().st_mode) and not path.is_dir()


@pytest.mark.parametrize("name", ALL)
class TestExistingPaths:
    @pytest.mark.parametrize("kind", ["named pipe", "socket"])
    def test_a_special_file_stays_and_is_named(
        self, work: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = work / "out"
        if kind == "named pipe":
            os.mkfifo(out)
        else:
            # The names of sockets are short.
            monkeypatch.chdir(work)
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind("out")
        with pytest.raises(StoreError, match=f"work/out: it is a {kind}.*another --out"):
            ALL[name](work, out)
        assert is_special(out)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
    def test_a_device_stays_and_is_named(self, work: Path, name: str) -> None:
        out = work / "out"
        try:
            os.mknod(out, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("no devices may be made here")
        with pytest.raises(StoreError, match=r"work/out: it is a device"):
            ALL[name](work, out)
        assert stat.S_ISCHR(out.stat().st_mode)

    def test_a_link_to_nowhere_is_named_with_its_target(self, work: Path, name: str) -> None:
        (work / "out").symlink_to("missing/place")
        with pytest.raises(StoreError, match=r"work/out: it is a .* link to missing/place, which"):
            ALL[name](work, work / "out")
        assert (work / "out").is_symlink()
        assert not (work / "missing").exists()

    def test_a_link_to_itself(self, work: Path, name: str) -> None:
        (work / "out").symlink_to("out")
        with pytest.raises(StoreError, match="work/out: it is a symbolic link that cannot be"):
            ALL[name](work, work / "out")

    def test_a_file_where_a_folder_should_be(self, work: Path, name: str) -> None:
        (work / "notes.txt").write_text("mine")
        for out in (work / "notes.txt" / "x.h5", work / "notes.txt" / "deep" / "x.h5"):
            with pytest.raises(StoreError) as raised:
                ALL[name](work, out)
            assert f"cannot write {out}: {work}/notes.txt is a file" in str(raised.value)
            assert ".partial" not in str(raised.value)

    def test_what_blocks_the_partial_folder_is_named(self, work: Path, name: str) -> None:
        (work / "out.partial").write_text("mine")
        with pytest.raises(StoreError, match=r"work/out: .*out.partial is a file.*Remove it"):
            ALL[name](work, work / "out")
        assert (work / "out.partial").read_text() == "mine"


def test_concurrent_checks_of_one_path_do_not_disturb_each_other(work: Path) -> None:
    """As the processes of torchrun check the path of the joined file."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: check_output_file(work / "out.h5"), range(400)))
    assert not partial_folder(work / "out.h5").exists()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("length", [250, 256])
def test_a_name_too_long_for_the_partial_folder_is_reported_as_given(
    work: Path, name: str, length: int
) -> None:
    out = work / ("x" * length)
    with pytest.raises(StoreError, match=rf"cannot write {out}: File name too long"):
        ALL[name](work, out)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_is_refused_as_a_file(
    work: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    for out in (work / "source", Path(), Path("."), Path("/")):
        with pytest.raises(StoreError, match=r"is a folder, expected a file.*x\.h5"):
            FILES[name](work, out)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_is_refused_as_a_folder(work: Path, name: str) -> None:
    (work / "out").write_text("mine")
    with pytest.raises(StoreError, match="it is a file, expected a folder"):
        FOLDERS[name](work, work / "out")
    assert (work / "out").read_text() == "mine"


class TestLinks:
    def test_the_target_is_replaced_and_the_link_stays(self, work: Path) -> None:
        (work / "store").mkdir()
        plain = (work / "one.h5").rename(work / "store" / "one.h5")
        (work / "one.h5").symlink_to(plain)
        compress_store(work / "one.h5", work / "one.h5")
        assert (work / "one.h5").is_symlink()
        assert FeatureStore(plain).compression == "zstd"
        assert not plain.is_symlink()
        assert partial_folder(work / "one.h5") == work / "store" / "one.h5.partial"

    def test_an_index_behind_a_link_names_files_from_where_it_is(self, work: Path) -> None:
        write_store(work / "first.h5", ["p"])
        join_stores([work / "first.h5"], work / "all.h5")
        elsewhere = work / "links"
        elsewhere.mkdir()
        (elsewhere / "all.h5").symlink_to("../all.h5")
        join_stores([work / "one.h5", work / "two.h5"], elsewhere / "all.h5")
        assert (elsewhere / "all.h5").is_symlink()
        for path in (work / "all.h5", elsewhere / "all.h5"):
            assert list(open_features(path)) == ["a", "c", "x", "y"]


class TestKilledAtTheEnd:
    """A process killed after its rename leaves its folder; the same command then succeeds."""

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("left", [[], [".lock"]])
    def test_the_finished_file_is_found_and_the_folder_removed(
        self, work: Path, name: str, left: list[str]
    ) -> None:
        out = work / "out.h5"
        FILES[name](work, out)
        content = out.read_bytes()
        if name in ("copy", "import"):
            left = [*left, "journal.jsonl"]
        partial_folder(out).mkdir()
        for file in left:
            (partial_folder(out) / file).write_text("")
        FILES[name](work, out)
        assert out.read_bytes() == content
        assert not partial_folder(out).exists()

    def test_compressed_in_place(self, work: Path) -> None:
        path = work / "one.h5"
        compress_store(path, path)
        partial_folder(path).mkdir()
        compress_store(path, path)
        assert not partial_folder(path).exists()

    @pytest.mark.parametrize("name", FOLDERS)
    def test_a_finished_export(self, work: Path, name: str) -> None:
        FOLDERS[name](work, work / "out")
        partial_folder(work / "out").mkdir()
        FOLDERS[name](work, work / "out")
        assert not partial_folder(work / "out").exists()

    def test_other_features_are_never_mistaken_for_the_finished_file(self, work: Path) -> None:
        """Only their values differ."""
        write_store(work / "other.h5", ["a", "bad", "c"], seed=9)
        compress_store(work / "other.h5", work / "out.h5")
        with pytest.raises(StoreError, match=r"out.h5 exists"):
            compress_store(work / "one.h5", work / "out.h5")
        with pytest.raises(StoreError, match=r"out.h5 exists"):
            join_stores([work / "one.h5"], work / "out.h5", copy=True)
        join_stores([work / "other.h5"], work / "copy.h5", copy=True)
        with pytest.raises(StoreError, match=r"copy.h5 exists"):
            join_stores([work / "one.h5"], work / "copy.h5", copy=True)


class TestLeftovers:
    @pytest.mark.parametrize("name", ["compress", "join"])
    def test_of_a_killed_writer_are_removed_by_the_next(self, work: Path, name: str) -> None:
        out, seen = work / "out.h5", "compressed" if name == "compress" else "whole"
        partial_folder(out).mkdir()
        (partial_folder(out) / seen).write_text("half")
        (partial_folder(out) / ".lock").write_text("")
        FILES[name](work, out)
        assert sorted(path.name for path in work.iterdir()) == [
            "one.h5", "out.h5", "source", "two.h5",
        ]  # fmt: skip

    @pytest.mark.parametrize("name", ["compress", "join"])
    def test_a_named_pipe_among_them_is_refused(self, work: Path, name: str) -> None:
        out, seen = work / "out.h5", "compressed" if name == "compress" else "whole"
        partial_folder(out).mkdir()
        os.mkfifo(partial_folder(out) / seen)
        with pytest.raises(StoreError, match=f"out.h5.partial/{seen} is a named pipe"):
            FILES[name](work, out)

    def test_an_export_killed_at_its_first_file(self, work: Path) -> None:
        (work / "out.partial" / "whole").mkdir(parents=True)
        (work / "out.partial" / "whole" / "export.json").write_text("{")
        export_features(FeatureStore(work / "one.h5"), work / "out", "h5")
        assert sorted(path.name for path in (work / "out").iterdir()) == [
            "a.h5", "c.h5", "export.json",
        ]  # fmt: skip

    def test_a_failed_write_leaves_nothing(
        self, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="no space left"), atomic_output(work / "x") as path:
            path.write_text("half")
        assert not list(work.glob("x*"))


class TestLocks:
    @pytest.mark.parametrize("name", ALL)
    @pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
    def test_a_file_system_without_locks(
        self, work: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "lockf", refuse)
        with pytest.raises(LockError, match="does not support locks.*VL_LST_WITHOUT_LOCKS=1"):
            ALL[name](work, work / "out")
        assert not list(work.glob("out*"))
        monkeypatch.setenv("VL_LST_WITHOUT_LOCKS", "1")
        ALL[name](work, work / "out")
        assert (work / "out").exists()

    @pytest.mark.parametrize("name", ALL)
    def test_a_folder_locked_by_another_process(
        self, work: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        monkeypatch.setattr(fcntl, "lockf", refuse)
        with pytest.raises(StoreError, match=r"another process is \w+ing .*work/out; wait"):
            ALL[name](work, work / "out")

    def test_a_lock_in_a_folder_that_is_being_removed_is_not_accepted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = fcntl.lockf

        def removed_meanwhile(handle: int, flags: int) -> None:
            (tmp_path / "x.partial" / ".lock").unlink()
            original(handle, flags)

        monkeypatch.setattr(fcntl, "lockf", removed_meanwhile)
        with (
            pytest.raises(FeatureError, match="busy"),
            locked_folder(tmp_path / "x.partial", "busy"),
        ):
            pytest.fail("another process removes this folder")


@pytest.mark.parametrize("name", [*ALL, "read"])
def test_hdf5_takes_no_lock_of_its_own(
    work: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That lock fails on file systems without locks, even if ours are turned off."""
    original, seen = h5py.File, []

    def opened(*args: object, **options: object) -> h5py.File:
        is_on_disk = options.get("driver") in (None, "sec2")
        if is_on_disk and Path(str(args[0])).parent != work / "source":
            seen.append(options.get("locking"))
        return original(*args, **options)

    monkeypatch.setattr(h5py, "File", opened)
    if name == "read":
        open_features(work / "one.h5").read(["a"])
    else:
        ALL[name](work, work / "out")
    assert set(seen) == {False}


def test_no_file_is_opened_with_a_lock_of_hdf5() -> None:
    """Including calls that read files of other programs."""
    opened = []
    for path in Path(feature_extraction.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "h5py.File":
                options = {each.arg: ast.unparse(each.value) for each in call.keywords}
                if options.get("driver") != "'core'":
                    opened.append((path.name, options.get("locking")))
    assert len(opened) > 4
    assert {locking for _, locking in opened} == {"False"}
