"""Whatever lies in a folder of photographs: found, named, or left out knowingly."""

import os
import sys
from pathlib import Path

import pytest
from PIL import Image, features

from feature_extraction.errors import ImageError
from feature_extraction.images import decode as images
from feature_extraction.images import finding as image_files
from feature_extraction.images.decode import decode_image
from feature_extraction.images.finding import find_images, walk_files


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(image_files, "_is_heif_readable", lambda: False)


def folder_of(path: Path, *names: str) -> Path:
    for name in ("photo.png", *names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x")
    return path


class TestLeftOut:
    @pytest.mark.usefixtures("without_heif")
    def test_what_may_be_a_photograph_is_named_and_counted(self, tmp_path: Path) -> None:
        names = ("a.HEIC", "b.jxl", "deep/c.jxl", "none", "x.jpg?width=300", "y.jpg?width=7")
        found = find_images(folder_of(tmp_path, *names))
        assert [file.image_id for file in found] == ["photo"]
        assert found.left_out == {".HEIC": 1, ".jxl": 2, "(no suffix)": 1, ".jpg?...": 2}
        assert found.note == (
            "left out: 2 .jpg?..., 2 .jxl, 1 (no suffix), 1 .HEIC "
            "(to read HEIC: pip install 'vl-lst[heif]')"
        )

    def test_what_lies_next_to_photographs_is_left_out_silently(self, tmp_path: Path) -> None:
        names = ("a.txt", "b.json", "c.CSV", ".DS_Store", ".hidden.heic", "Thumbs.db", "README")
        found = find_images(folder_of(tmp_path, *names, "desktop.ini", "LICENSE", "d.h5"))
        assert (found.left_out, found.note) == ({}, "")

    def test_an_archive_must_be_unpacked(self, tmp_path: Path) -> None:
        found = find_images(folder_of(tmp_path, "more.zip", "even.tar.gz"))
        assert found.note == "left out: 1 .gz, 1 .zip (unpack archives first)"

    def test_a_note_stays_short_whatever_the_names_are(self, tmp_path: Path) -> None:
        odd = os.fsdecode(b"a.caf\xe9")
        found = find_images(
            folder_of(tmp_path, odd, "b." + "x" * 99, "c.a\nb", *(f"d.{i:04d}" for i in range(90)))
        )
        assert len(found.left_out) <= image_files.MAX_KINDS + 1
        assert sum(found.left_out.values()) == 93
        assert len(found.note) < 200
        found.note.encode()
        assert "\n" not in found.note

    @pytest.mark.usefixtures("without_heif")
    def test_no_images_but_others_is_an_error_that_names_them(self, tmp_path: Path) -> None:
        (tmp_path / "a.heic").write_bytes(b"x")
        (tmp_path / "all.tar").write_bytes(b"x")
        with pytest.raises(ImageError, match=r"no images in .*left out: .*1 \.heic.*unpack"):
            find_images(tmp_path)


class TestNotAFolder:
    @pytest.mark.parametrize("name", ["photos.zip", "photos.TAR", "photos.tgz", "photos.tar.xz"])
    def test_an_archive_says_that_it_must_be_unpacked(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(ImageError, match=r"is an archive, expected a folder.*Unpack it"):
            find_images(tmp_path / name)

    def test_a_file_says_what_to_give(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"x")
        with pytest.raises(ImageError, match="is not a folder.*Give the folder that holds"):
            find_images(tmp_path / "a.jpg")


class TestUnreadableFolders:
    """Their images would be missing without a word."""

    def test_one_that_cannot_be_listed_is_an_error(
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
    def test_one_without_permission(self, tmp_path: Path) -> None:
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
    def test_without_the_package_the_reason_says_what_to_install(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(self.HEAD)
        with pytest.raises(ImageError, match=r"it is HEIC.*pip install 'vl-lst\[heif\]'"):
            decode_image(tmp_path / "a.jpg", 32)

    def test_a_picture_is_found_and_read(self, tmp_path: Path) -> None:
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

    def test_a_large_one_is_reduced_from_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not taken from the thumbnail in it, which may show something else."""
        pillow_heif = pytest.importorskip("pillow_heif")
        monkeypatch.setattr(images, "EXACT_PIXELS", 2**14)
        large = Image.new("RGB", (320, 208), (10, 120, 40))
        pillow_heif.from_pillow(large).save(tmp_path / "a.heic", thumbnails=[160], quality=30)
        picture = decode_image(tmp_path / "a.heic", 32)
        assert (picture.height, picture.width) == (208, 320)
        # Whole factors of the picture's sides, 5 and 3; those of the thumbnail give (80, 104).
        assert picture.image.size == (64, 69)

    def test_damage_ends_in_a_reason(self, tmp_path: Path) -> None:
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
