"""`vl-lst extract-features` and `vl-lst features` with the tokens that a language model reads."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_photographs import write_photographs
from tiny_vision_language import NUM_QUERIES, SIDE, WIDTH, blip2, write_vision_language

from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.store import open_features
from feature_extraction.store.writer import StoreWriter
from vl_lst.cli import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_language(tmp_path_factory.mktemp("models") / "reader", blip2())


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("images") / "photographs", 7)


def command(photographs: Path, out: Path, checkpoint: Path, *more: str) -> list[str]:
    arguments = ["--images", str(photographs), "--out", str(out), "--encoder", str(checkpoint)]
    settings = ["--batch-size", "2", "--workers", "0", "--device", "cpu", "--quiet"]
    return ["extract-features", *arguments, *settings, *more]


@pytest.fixture(scope="module")
def extracted(
    photographs: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("features") / "tokens.h5"
    assert main(command(photographs, out, checkpoint, "--layer", "language")) == 0
    return out


def test_language_is_the_default_layer_and_an_interrupted_extraction_resumes(
    photographs: Path,
    checkpoint: Path,
    extracted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, report = tmp_path / "tokens.h5", tmp_path / "report.json"
    write, batches = StoreWriter.write, iter(range(2))

    def interrupted(writer: StoreWriter, batch: object) -> None:
        if next(batches, None) is None:
            raise KeyboardInterrupt
        write(writer, batch)

    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "write", interrupted)
        assert main(command(photographs, out, checkpoint)) == 130
    assert not out.exists()
    assert main(command(photographs, out, checkpoint, "--json", str(report))) == 0
    written = json.loads(report.read_text())
    assert 0 < written["extracted"] < 7
    assert (written["spec"]["layer"], written["spec"]["version"]) == ("language", 3)
    assert out.read_bytes() == extracted.read_bytes()
    store = open_features(out)
    assert store.read(["photo3"]).shape == (1, NUM_QUERIES, WIDTH)
    assert store.spec.projection_sha256 == build_encoder(checkpoint).spec.projection_sha256


def test_features_commands_keep_language_tokens(
    photographs: Path,
    checkpoint: Path,
    extracted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["features", "info", str(extracted)]) == 0
    printed = capsys.readouterr().out
    assert f"{NUM_QUERIES} x {WIDTH} float16, language tokens of 1 x {NUM_QUERIES}" in printed
    assert f"{SIDE} x {SIDE} pixels, squash" in printed
    store = open_features(extracted)
    assert f"projection  {store.spec.projection_sha256[:12]}" in printed

    verify = ["features", "verify", str(extracted), "--images", str(photographs), "--device", "cpu"]
    assert main([*verify, "--encoder-weights", str(checkpoint)]) == 0

    parts = [tmp_path / f"tokens.shard-{number}-of-2.h5" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        shard = ["--shard", f"{number}/2", "--compression", "zstd"]
        assert main(command(photographs, tmp_path / "tokens.h5", checkpoint, *shard)) == 0
        assert part.exists()
    joined, copy = tmp_path / "joined.h5", tmp_path / "export"
    assert main(["features", "join", *map(str, parts), "--out", str(joined)]) == 0
    assert main(["features", "export", str(joined), "--out", str(copy), "--format", "arrow"]) == 0
    assert open_features(joined).spec == store.spec
    image_ids = list(store)
    assert np.array_equal(open_features(joined).read(image_ids), store.read(image_ids))
    exported = json.loads((copy / "export.json").read_text())
    assert exported["spec"]["projection_sha256"] == store.spec.projection_sha256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--layer", "grid"], "has no grid features: use --layer language"),
        (["--crops", "2"], "crops is 2, expected 1 for the layer language"),
        (["--layer", "language", "--encoder", "RN50"], "the encoder RN50 has no language features"),
    ],
)
def test_settings_that_do_not_fit_are_one_message(
    settings: list[str],
    message: str,
    photographs: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(photographs, tmp_path / "out.h5", checkpoint, *settings)) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("error:") == 1
    assert "Traceback" not in printed
