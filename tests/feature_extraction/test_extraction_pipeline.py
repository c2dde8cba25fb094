"""The way through the tower: on CUDA one batch ahead, and the same features as without."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_extraction import pipeline
from feature_extraction.encoders.encoder import Encoder, build_encoder
from feature_extraction.extract import extract
from feature_extraction.images.decode import ImageFile
from feature_extraction.images.decoding_pool import DecodedBatch
from feature_extraction.store.store import FeatureStore

BATCH, BATCHES = 2, 4


class Nothing:
    """In place of a stream or an event: whatever it is told, it does nothing."""

    def __init__(self, *_: object) -> None: ...

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


@pytest.fixture
def without_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a device does not: everything is done at once, in this process's memory."""
    for name in ("Stream", "Event", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    monkeypatch.setattr(pipeline, "_copy_to_host", torch.Tensor.clone)


@pytest.mark.usefixtures("without_device")
def test_a_batch_departs_before_the_one_ahead_of_it_arrives(
    files: list[ImageFile], encoder: Encoder
) -> None:
    """Its squares may then be overwritten; features, sizes and reasons stay with their batch."""
    generator, asked = np.random.default_rng(0), []
    given = generator.integers(0, 256, (BATCHES, BATCH, 1, 3, 64, 64), np.uint8)
    squares_BK3SS, size_B2 = np.empty_like(given[0]), np.empty((BATCH, 2), np.int32)

    def batches() -> Iterator[DecodedBatch]:
        for number, pixels_BK3SS in enumerate(given):
            asked.append(number)
            squares_BK3SS[:], size_B2[:] = pixels_BK3SS, number
            yield DecodedBatch(number * BATCH, squares_BK3SS, size_B2, [str(number)] * BATCH)

    for number, found in enumerate(pipeline._encode_ahead(batches(), files, encoder)):
        assert asked[-1] == min(number + 1, BATCHES - 1)
        expected = encoder.encode(torch.from_numpy(given[number]), ["a", "b"])
        assert np.array_equal(found.features, expected)
        assert found.start == number * BATCH
        assert (found.image_size == number).all()
        assert found.reasons == [str(number)] * BATCH
    assert number == BATCHES - 1


def test_more_processes_decode_for_a_tower_that_leaves_the_cores_to_them() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [pipeline.default_workers(cores, cpu) for cores in (1, 2, 64)] == [1, 2, 4]
    assert [pipeline.default_workers(cores, cuda) for cores in (1, 8, 64)] == [1, 8, 16]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_store_holds_what_the_tower_gives(
    files: list[ImageFile], resnet_folder: Path, tmp_path: Path
) -> None:
    """Copies and arithmetic overlap; nothing is overwritten before it is used."""
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
