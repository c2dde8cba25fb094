"""The pipeline on CUDA submits one batch ahead and gives the same features."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_extraction import pipeline
from feature_extraction.encoders.encoder import Encoder, build_encoder
from feature_extraction.extract import extract
from feature_extraction.images.decoding_pool import DecodedBatch
from feature_extraction.images.finding import ImageFile
from feature_extraction.store.store import FeatureStore

BATCH, BATCHES = 2, 4


class NoOp:
    """A stream or an event whose methods do nothing."""

    def __init__(self, *_: object) -> None: ...

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


@pytest.fixture
def cpu_instead_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run CUDA code on the CPU, where every operation is synchronous."""
    for name in ("Stream", "Event", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, NoOp)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    monkeypatch.setattr(pipeline, "_copy_to_host", torch.Tensor.clone)


@pytest.mark.usefixtures("cpu_instead_of_cuda")
def test_a_batch_is_submitted_before_the_previous_one_is_returned(
    files: list[ImageFile], encoder: Encoder
) -> None:
    """Its squares may then be overwritten; features, sizes and reasons belong to their batch."""
    generator, requested = np.random.default_rng(0), []
    inputs = generator.integers(0, 256, (BATCHES, BATCH, 1, 3, 64, 64), np.uint8)
    squares_BK3SS, size_B2 = np.empty_like(inputs[0]), np.empty((BATCH, 2), np.int32)

    def batches() -> Iterator[DecodedBatch]:
        for number, pixels_BK3SS in enumerate(inputs):
            requested.append(number)
            squares_BK3SS[:], size_B2[:] = pixels_BK3SS, number
            yield DecodedBatch(number * BATCH, squares_BK3SS, size_B2, [str(number)] * BATCH)

    for number, found in enumerate(pipeline._encode_ahead(batches(), files, encoder)):
        assert requested[-1] == min(number + 1, BATCHES - 1)
        expected = encoder.encode(torch.from_numpy(inputs[number]), ["a", "b"])
        assert np.array_equal(found.features, expected)
        assert found.start == number * BATCH
        assert (found.image_size == number).all()
        assert found.reasons == [str(number)] * BATCH
    assert number == BATCHES - 1


def test_an_encoder_on_the_cpu_has_fewer_decoding_processes() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [pipeline.default_workers(cores, cpu) for cores in (1, 2, 64)] == [1, 2, 4]
    assert [pipeline.default_workers(cores, cuda) for cores in (1, 8, 64)] == [1, 8, 16]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_features_on_cuda_equal_those_on_the_cpu(
    files: list[ImageFile], resnet_folder: Path, tmp_path: Path
) -> None:
    """Copies and computation overlap, and nothing is overwritten before it is used."""
    encoder = build_encoder(resnet_folder, device="cuda")
    extract(files, tmp_path / "cpu.h5", build_encoder(resnet_folder, device="cpu"))
    on_cpu = FeatureStore(tmp_path / "cpu.h5")
    for workers in (0, 2):
        out = tmp_path / f"{workers}.h5"
        extract(files, out, encoder, batch_size=BATCH, workers=workers)
        on_cuda = FeatureStore(out)
        assert len(on_cuda) == len(on_cpu)
        for image_id in on_cpu:
            np.testing.assert_allclose(on_cuda[image_id], on_cpu[image_id], rtol=0.05, atol=0.05)
