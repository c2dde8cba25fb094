"""A published site: complete, resumed after a kill, updated in place, and nowhere else."""

from pathlib import Path

import pytest

from eval.errors import OutputError
from eval.report.site import Site, check_site

KEYS = [f"{number:024x}" for number in (1, 2, 3 << 88)]


class KilledError(BaseException):
    """The process is killed here."""


def write_site(folder: Path, keys: list[str], page: bytes = b"page") -> Site:
    site = Site(folder)
    for key in keys:
        site.add_picture(key, key.encode)
    site.add_block("examples-0123456789abcdef", "QUJD")
    site.finish(page)
    return site


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_killed_site_is_continued_and_ends_the_same(tmp_path: Path) -> None:
    whole = write_site(tmp_path / "whole", KEYS)
    assert whole.written == 3 + 1 + 2

    def killed() -> bytes:
        raise KilledError

    site = Site(tmp_path / "killed")
    site.add_picture(KEYS[0], KEYS[0].encode)
    with pytest.raises(KilledError):
        site.add_picture(KEYS[1], killed)
    assert not (tmp_path / "killed" / "index.html").exists()

    resumed = Site(tmp_path / "killed")
    resumed.add_picture(KEYS[0], killed)  # it exists, so it is not made again
    write_site(tmp_path / "killed", KEYS)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_an_update_writes_what_changed_and_removes_what_is_not_used(tmp_path: Path) -> None:
    write_site(tmp_path, KEYS)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "pictures" / "mine.jpg").write_text("mine")
    assert write_site(tmp_path, KEYS).written == 0
    assert write_site(tmp_path, KEYS[:1], b"other").written == 1
    names = files_of(tmp_path).keys()
    assert {name for name in names if name.startswith("pictures/")} == {
        *(f"pictures/00/{KEYS[0][2:]}.jpg", "pictures/mine.jpg")
    }
    assert "notes.txt" in names


def test_a_folder_with_something_else_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for use in (check_site, Site):
        with pytest.raises(OutputError, match=r"found 'thesis.tex' and no vl-lst-site.json"):
            use(tmp_path)
    assert list(files_of(tmp_path)) == ["thesis.tex"]
    with pytest.raises(OutputError, match="is not a folder"):
        check_site(tmp_path / "thesis.tex")
    check_site(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("inner", ["data", "pictures"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, inner: str) -> None:
    Site(tmp_path / "site")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "site" / inner).symlink_to(elsewhere)
    with pytest.raises(OutputError, match="is a link"):
        Site(tmp_path / "site")
    (tmp_path / "site" / inner).unlink()
    (tmp_path / "site" / "pictures").mkdir(exist_ok=True)
    (tmp_path / "site" / "pictures" / "00").symlink_to(elsewhere)
    with pytest.raises(OutputError, match="is a link"):
        write_site(tmp_path / "site", KEYS[:1])
    assert not any(elsewhere.iterdir())
