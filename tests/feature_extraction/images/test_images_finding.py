"""Files in a folder of photographs are found, or skipped and reported."""

import os
import sys
from pathlib import Path

import pytest
from PIL import Image, features

from feature_extraction.errors import ImageError
from feature_extraction.images import decode, finding
from feature_extraction.images.decode import decode_image
from feature_extraction.images.finding import find_images, walk_files


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(finding, "_is_heif_readable", lambda: False)


def folder_of(path: Path, *names: str) -> Path:
    """Write `photo.png` and files with other names; return their folder."""
    for name in ("photo.png", *names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x")
    return path


class TestFindImages:
    def test_subfolders_and_any_letter_case_sorted_by_id(self, tmp_path: Path) -> None:
        (tmp_path / "b" / "c").mkdir(parents=True)
        for name in ("z.JPG", "b/a.png", "b/c/m x é.WebP", "b/.hidden.png", "notes.txt"):
            (tmp_path / name).write_bytes(b"x")
        found = find_images(tmp_path)
        assert [file.image_id for file in found] == ["a", "m x é", "z"]
        assert found[1].path == tmp_path / "b/c/m x é.WebP"

    def test_a_link_to_a_folder_is_followed_once(self, tmp_path: Path) -> None:
        (tmp_path / "images" / "sub").mkdir(parents=True)
        (tmp_path / "images" / "sub" / "a.png").write_bytes(b"x")
        (tmp_path / "images" / "sub" / "loop").symlink_to(tmp_path / "images")
        (tmp_path / "link").symlink_to(tmp_path / "images")
        assert [file.image_id for file in find_images(tmp_path / "link")] == ["a"]

    def test_two_files_with_the_same_id_are_both_named(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "a.png").write_bytes(b"x")
        (tmp_path / "sub" / "a.jpg").write_bytes(b"x")
        with pytest.raises(ImageError, match=r"a\.png and .*sub/a\.jpg"):
            find_images(tmp_path)

    @pytest.mark.parametrize("name", ["missing", "file.jpg", "empty"])
    def test_no_images_is_an_error(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file.jpg").write_bytes(b"x")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ImageError, match=r"expected .*(folder of images|files that end in)"):
            find_images(tmp_path / name)

    def test_a_name_that_is_not_utf8_is_refused(self, tmp_path: Path) -> None:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
        with pytest.raises(ImageError, match="not UTF-8"):
            find_images(tmp_path)


class TestLeftOut:
    @pytest.mark.usefixtures("without_heif")
    def test_files_that_may_be_photographs_are_counted_by_suffix(self, tmp_path: Path) -> None:
        names = ("a.HEIC", "b.jxl", "deep/c.jxl", "none", "x.jpg?width=300", "y.jpg?width=7")
        found = find_images(folder_of(tmp_path, *names))
        assert [file.image_id for file in found] == ["photo"]
        assert found.left_out == {".HEIC": 1, ".jxl": 2, "(no suffix)": 1, ".jpg?...": 2}
        assert found.note == (
            "left out: 2 .jpg?..., 2 .jxl, 1 (no suffix), 1 .HEIC "
            "(to read HEIC: pip install 'vl-lst[heif]')"
        )

    def test_files_often_found_next_to_photographs_are_not_reported(self, tmp_path: Path) -> None:
        names = ("a.txt", "b.json", "c.CSV", ".DS_Store", ".hidden.heic", "Thumbs.db", "README")
        found = find_images(folder_of(tmp_path, *names, "desktop.ini", "LICENSE", "d.h5"))
        assert (found.left_out, found.note) == ({}, "")

    def test_an_archive_must_be_unpacked(self, tmp_path: Path) -> None:
        found = find_images(folder_of(tmp_path, "more.zip", "even.tar.gz"))
        assert found.note == "left out: 1 .gz, 1 .zip (unpack archives first)"

    def test_the_note_is_short_for_any_names(self, tmp_path: Path) -> None:
        odd = os.fsdecode(b"a.caf\xe9")
        found = find_images(
            folder_of(tmp_path, odd, "b." + "x" * 99, "c.a\nb", *(f"d.{i:04d}" for i in range(90)))
        )
        assert len(found.left_out) <= finding.MAX_KINDS + 1
        assert sum(found.left_out.values()) == 93
        assert len(found.note) < 200
        found.note.encode()
        assert "\n" not in found.note

    @pytest.mark.usefixtures("without_heif")
    def test_a_folder_without_images_lists_its_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "a.heic").write_bytes(b"x")
        (tmp_path / "all.tar").write_bytes(b"x")
        with pytest.raises(ImageError, match=r"no images in .*left out: .*1 \.heic.*unpack"):
            find_images(tmp_path)


class TestNotAFolder:
    @pytest.mark.parametrize("name", ["photos.zip", "photos.TAR", "photos.tgz", "photos.tar.xz"])
    def test_the_message_for_an_archive_says_to_unpack_it(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(ImageError, match=r"is an archive: expected a folder.*Unpack it"):
            find_images(tmp_path / name)

    def test_the_message_for_a_file_asks_for_its_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"x")
        with pytest.raises(ImageError, match="is not a folder.*Give the folder that contains"):
            find_images(tmp_path / "a.jpg")


class TestUnreadableFolders:
    """Otherwise their images would be missing without a message."""

    def test_a_folder_that_cannot_be_listed_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder_of(tmp_path, "closed/a.jpg")
        original = os.scandir

        def scandir(path: str) -> object:
            if str(path).endswith("closed"):
                raise PermissionError(13, "Permission denied", str(path))
            return original(path)

        monkeypatch.setattr(os, "scandir", scandir)
        for search in (find_images, lambda folder: list(walk_files(folder))):
            with pytest.raises(ImageError, match=r"folder .*/closed cannot be read \(Permission"):
                search(tmp_path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_folder_without_permission(self, tmp_path: Path) -> None:
        folder_of(tmp_path, "closed/a.jpg")
        (tmp_path / "closed").chmod(0)
        try:
            with pytest.raises(ImageError, match=r"closed cannot be read"):
                find_images(tmp_path)
        finally:
            (tmp_path / "closed").chmod(0o755)


class TestHeif:
    HEAD = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"

    @pytest.mark.usefixtures("without_heif")
    def test_without_the_package_the_message_says_what_to_install(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(self.HEAD)
        with pytest.raises(ImageError, match=r"it is HEIC.*pip install 'vl-lst\[heif\]'"):
            decode_image(tmp_path / "a.jpg", 32)

    def test_a_file_is_found_and_decoded(self, tmp_path: Path) -> None:
        pillow_heif = pytest.importorskip("pillow_heif")
        before = set(Image.OPEN)
        image = Image.new("RGB", (80, 40), (200, 30, 60))
        exif = Image.Exif()
        exif[0x0112] = 6
        pillow_heif.from_pillow(image).save(tmp_path / "a.HEIC", exif=exif.tobytes())
        (file,) = find_images(tmp_path)
        picture = decode_image(file.path, 32)
        assert (picture.height, picture.width) == (80, 40)
        assert picture.image.mode == "RGB"
        middle = picture.image.getpixel((20, 40))
        assert all(abs(one - other) < 12 for one, other in zip(middle, (200, 30, 60), strict=True))
        assert set(Image.OPEN) == before

    def test_a_large_image_is_downscaled_from_its_pixels(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not from the embedded thumbnail, which may show something else."""
        pillow_heif = pytest.importorskip("pillow_heif")
        monkeypatch.setattr(decode, "EXACT_PIXELS", 2**14)
        large = Image.new("RGB", (320, 208), (10, 120, 40))
        pillow_heif.from_pillow(large).save(tmp_path / "a.heic", thumbnails=[160], quality=30)
        picture = decode_image(tmp_path / "a.heic", 32)
        assert (picture.height, picture.width) == (208, 320)
        # Integer factors 5 and 3 of the image's sides; the thumbnail would give (80, 104).
        assert picture.image.size == (64, 69)

    def test_a_damaged_file_is_an_image_error(self, tmp_path: Path) -> None:
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(Image.effect_noise((64, 64), 90)).save(tmp_path / "a.heic")
        content = (tmp_path / "a.heic").read_bytes()
        for kept in (20, 200, len(content) // 2):
            (tmp_path / "a.heic").write_bytes(content[:kept])
            with pytest.raises(ImageError):
                decode_image(tmp_path / "a.heic", 32)

    def test_a_bomb_is_refused_from_its_header(self, tmp_path: Path) -> None:
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(Image.new("RGB", (64, 64))).save(tmp_path / "a.heic")
        content = (tmp_path / "a.heic").read_bytes()
        place = content.index(b"ispe") + 8
        side = (30_000).to_bytes(4, "big")
        (tmp_path / "a.heic").write_bytes(content[:place] + side * 2 + content[place + 8 :])
        with pytest.raises(ImageError, match="178,956,970|cannot be decoded"):
            decode_image(tmp_path / "a.heic", 32)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (80, 40), (200, 30, 60)).save(tmp_path / "a.avif")
    (file,) = find_images(tmp_path)
    assert decode_image(file.path, 32).image.size == (80, 40)
