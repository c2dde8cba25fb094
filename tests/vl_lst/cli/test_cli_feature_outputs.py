"""Outputs that exist already, folders with other files, and unreadable files."""

import json
import os
import stat
from pathlib import Path

import pytest
from tiny_photographs import write_photographs

from feature_extraction.images import finding as image_files
from feature_extraction.store.store import FeatureStore
from vl_lst.cli import main


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs", 3)


def extract(photographs: Path, out: Path | str, encoder: str, *more: str) -> int:
    given = ["--images", str(photographs), "--out", str(out), "--encoder", encoder]
    return main(["extract-features", *given, "--workers", "0", "--device", "cpu", *more])


class TestTargets:
    @pytest.mark.parametrize("more", [[], ["--shard", "1/2"]])
    @pytest.mark.parametrize("place", [".", "..", "/", "photographs"])
    def test_a_folder(
        self,
        photographs: Path,
        tmp_path: Path,
        encoder: str,
        place: str,
        more: list[str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert extract(photographs, place, encoder, *more) == 1
        printed = capsys.readouterr().err
        assert "is a folder, expected a file to write" in printed
        assert printed.count("error:") == 1

    def test_a_fifo_is_named_before_any_work(
        self, photographs: Path, tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        os.mkfifo(tmp_path / "out.h5")
        assert extract(photographs, tmp_path / "out.h5", encoder) == 1
        printed = capsys.readouterr().err
        assert f"cannot write {tmp_path}/out.h5: it is a named pipe" in printed
        assert "building" not in printed
        assert stat.S_ISFIFO((tmp_path / "out.h5").stat().st_mode)

    def test_a_link_to_a_finished_file_completes_its_target(
        self, photographs: Path, tmp_path: Path, encoder: str
    ) -> None:
        (photographs / "new.png").write_bytes(b"")
        (tmp_path / "disk").mkdir()
        assert extract(photographs, tmp_path / "disk" / "real.h5", encoder) == 1
        link = tmp_path / "link.h5"
        link.symlink_to("disk/real.h5")
        (photographs / "new.png").write_bytes((photographs / "photo0.png").read_bytes())
        assert extract(photographs, link, encoder, "--compression", "zstd") == 0
        assert link.is_symlink()
        real = FeatureStore(tmp_path / "disk" / "real.h5")
        assert (len(real), real.compression) == (4, "zstd")
        assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["real.h5"]


class TestLeftOut:
    def test_files_left_out_are_printed_and_reported(
        self, photographs: Path, tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("a.jxl", "b.JXL", "all.zip", "notes.txt"):
            (photographs / name).write_bytes(b"x")
        report = tmp_path / "report.json"
        assert extract(photographs, tmp_path / "out.h5", encoder, "--json", str(report)) == 0
        printed = capsys.readouterr().err
        assert "left out: 1 .JXL, 1 .jxl, 1 .zip (unpack archives first)" in printed
        assert json.loads(report.read_text())["left_out"] == {".jxl": 1, ".JXL": 1, ".zip": 1}
        assert extract(photographs, tmp_path / "out.h5", encoder, "--quiet") == 0
        assert "left out" not in capsys.readouterr().err

    def test_a_fifo_among_photographs_is_a_failure_with_a_reason(
        self, photographs: Path, tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        os.mkfifo(photographs / "pipe.jpg")
        assert extract(photographs, tmp_path / "out.h5", encoder) == 1
        assert "failed pipe: it is a named pipe, expected a file" in capsys.readouterr().out
        assert len(FeatureStore(tmp_path / "out.h5")) == 3

    def test_verify_lists_files_left_out_if_images_are_missing(
        self, photographs: Path, tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert extract(photographs, tmp_path / "out.h5", encoder) == 0
        (photographs / "photo2.png").rename(photographs / "photo2.jxl")
        store, report = str(tmp_path / "out.h5"), tmp_path / "report.json"
        arguments = ["features", "verify", store, "--images", str(photographs)]
        more = ["--encoder-weights", encoder, "--device", "cpu", "--json", str(report)]
        assert main([*arguments, *more]) == 0
        assert "1 images of" in (printed := capsys.readouterr().err)
        assert "left out: 1 .jxl" in printed
        assert json.loads(report.read_text())["left_out"] == {".jxl": 1}

    def test_training_lists_files_left_out_if_images_are_missing(
        self, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (photographs / "beach.HEIC").write_bytes(b"x")
        example = {"id": "1", "images": ["beach"], "prompt": "what?", "answers": ["sea"]}
        (tmp_path / "own.jsonl").write_text(json.dumps(example) + "\n")
        own = str(tmp_path / "own.jsonl")
        arguments = ["--task", "vqa", "--train-file", own, "--val-file", own]
        places = ["--images", str(photographs), "--out", str(tmp_path / "run")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(image_files, "_is_heif_readable", lambda: False)
            assert main(["train", *arguments, *places, "--encoder", "demo", "--backbone", "demo"])
        assert "left out: 1 .HEIC (to read HEIC: pip install" in capsys.readouterr().err


class TestFilesThatMayNotBeRead:
    """Exit code 1 and one message, not wrong usage."""

    @pytest.fixture
    def closed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        path = tmp_path / "closed"
        path.write_bytes(b"{}")
        path.chmod(0)
        original = os.access

        def access(place: object, mode: int, **more: object) -> bool:
            # Root may read everything; other users get this answer.
            return str(place) != str(path) and original(place, mode, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "access", access)
        return str(path)

    @pytest.mark.parametrize(
        "arguments",
        [
            ["features", "info", "CLOSED"],
            ["features", "verify", "CLOSED", "--images", "."],
            ["features", "export", "CLOSED", "--out", "out", "--format", "h5"],
            ["features", "join", "CLOSED", "--out", "out.h5"],
            ["features", "compress", "CLOSED", "--out", "out.h5"],
            ["features", "import", "CLOSED", "--out", "out.h5"],
            ["extract-features", "--images", "CLOSED", "--out", "out.h5"],
            ["score", "--task", "vqa", "CLOSED", "--data-root", "."],
            ["predict", "CLOSED", "--image", "CLOSED"],
            ["evaluate", "CLOSED"],
            ["train", "--task", "vqa", "--features", "CLOSED", "--out", "run"],
        ],
    )
    def test_every_command_checks_readability_itself(
        self,
        closed: str,
        tmp_path: Path,
        arguments: list[str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        main([closed if part == "CLOSED" else part for part in arguments])
        printed = capsys.readouterr()
        assert "is not readable" not in printed.out + printed.err

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_feature_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "closed.h5"
        path.write_bytes(b"x")
        path.chmod(0)
        assert main(["features", "info", str(path)]) == 1
        assert f"{path} cannot be read: permission denied" in capsys.readouterr().err
