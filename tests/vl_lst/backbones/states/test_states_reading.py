"""What is read from a file of states is what was written, in any process."""

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
import torch
from plain_states import (
    INPUTS,
    LENGTHS,
    OUTPUT,
    PAIRS,
    SPEC,
    TABLE,
    input_states,
    pair_states,
    write_states,
)

from feature_extraction.errors import StoreError
from vl_lst.backbones.states.keys import KEY_BYTES, input_key, pair_key
from vl_lst.backbones.states.reader import StateReader
from vl_lst.backbones.states.spec import DTYPES, StackSpec, StateDtype, StateSpec
from vl_lst.backbones.states.table import OVERHEAD_BYTES, expected_bytes

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_states(tmp_path_factory.mktemp("states") / "states.h5")


class TestKeys:
    def test_each_part_of_an_input_counts(self) -> None:
        different = [
            input_key([]),
            input_key([1, 2]),
            input_key([2, 1]),
            input_key([1, 2, 0]),
            input_key([1, 2], ["a", "b"]),
            input_key([1, 2], ["b", "a"]),
            input_key([1, 2], ["ab"]),
            input_key([1, 2], ["ab", ""]),
            pair_key(input_key([1, 2]), []),
            pair_key(input_key([1, 2]), [0]),
            pair_key(input_key([1, 2]), [0, 0]),
            pair_key(input_key([2, 1]), [0]),
        ]
        assert len(set(different)) == len(different)
        assert {len(key) for key in different} == {KEY_BYTES}

    def test_they_stay_the_same_in_later_versions(self) -> None:
        """Files hold them."""
        key = input_key([1, 70000], ["a", "ü"])
        assert key.hex() == "2d05d2a0a72a76e2afd90b9127c151e9"
        assert pair_key(key, (0, 5)).hex() == "2c56eaf0a8eacec3a617b12556264e19"


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_state_is_the_one_that_was_written(
        self, tmp_path: Path, dtype: StateDtype
    ) -> None:
        spec = SPEC.model_copy(update={"dtype": dtype})
        reader = StateReader(write_states(tmp_path / "states.h5", spec))
        assert reader.spec == spec
        assert reader.texts_sha256 == TABLE.sha256
        order = [2, 0, 3, 0]
        states = reader.encoder.read([INPUTS[row] for row in order])
        assert states.final_NTD is not None
        for position, row in enumerate(order):
            length = LENGTHS[row]
            expected = input_states(row).to(DTYPES[dtype])
            assert torch.equal(states.embedding_NTD[position, :length], expected[0])
            assert torch.equal(states.blocks_KNTD[:, position, :length], expected[1:-1])
            assert torch.equal(states.final_NTD[position, :length], expected[-1])
            assert states.mask_NT[position].tolist() == [True] * length + [False] * (5 - length)
        everything = states.embedding_NTD, *states.blocks_KNTD, states.final_NTD
        assert all(not each[~states.mask_NT].any() for each in everything)
        assert reader.decoder is not None
        pairs = reader.decoder.read(PAIRS[3:1:-1])
        assert pairs.final_NTD is None
        assert torch.equal(pairs.blocks_KNTD[0, 0], pair_states(3)[1].to(DTYPES[dtype]))
        assert torch.equal(pairs.embedding_NTD[1, :1], pair_states(2)[0].to(DTYPES[dtype]))

    def test_the_output_layer_is_kept(self, path: Path) -> None:
        output = StateReader(path).output_layer()
        assert output is not None
        assert output.bias_V is not None
        assert OUTPUT.bias_V is not None
        assert torch.equal(output.weight_VW, OUTPUT.weight_VW)
        assert torch.equal(output.bias_V, OUTPUT.bias_V)

    def test_an_encoder_alone_has_neither_pairs_nor_output_layer(self, tmp_path: Path) -> None:
        spec = SPEC.model_copy(update={"decoder": None, "output": None})
        reader = StateReader(write_states(tmp_path / "states.h5", spec))
        assert reader.decoder is None
        assert reader.output_layer() is None
        assert len(reader.encoder) == len(INPUTS)

    def test_some_layers_can_be_read(self, path: Path) -> None:
        encoder = StateReader(path).encoder
        states = encoder.read(INPUTS[:1], [0, 3])
        assert states.final_NTD is not None
        assert torch.equal(states.final_NTD[0], input_states(0)[-1])
        assert torch.equal(states.blocks_KNTD[:, 0], input_states(0)[[1, 3]])
        assert encoder.read(INPUTS[:1], []).blocks_KNTD.shape == (0, 1, 5, 6)
        with pytest.raises(StoreError, match=r"encoder's blocks \[0, 2, 3\], and \[1\] are needed"):
            encoder.read(INPUTS[:1], [0, 1])

    def test_the_size_is_known_before(self, path: Path) -> None:
        expected = expected_bytes(SPEC, TABLE)
        assert expected - OVERHEAD_BYTES < path.stat().st_size <= expected


class TestMissing:
    def test_texts_without_states_are_found(self, path: Path) -> None:
        encoder = StateReader(path).encoder
        absent = [bytes(16), b"\xff" * 16]
        assert encoder.missing([*INPUTS, *absent]) == [4, 5]

    def test_the_message_names_the_text(self, path: Path) -> None:
        encoder = StateReader(path).encoder
        keys = [INPUTS[0], input_key([1])]
        with pytest.raises(StoreError, match="no states of the encoder for the text 'vqa: 1'"):
            encoder.read(keys, describe=lambda position: f"the text 'vqa: {position}'")
        with pytest.raises(StoreError, match="other settings of prompts. Extract the states"):
            encoder.read(keys)


def check_states(reader: StateReader) -> None:
    """Exit with 0 if the reader gives the right states."""
    states = reader.encoder.read(INPUTS)
    os._exit(not torch.equal(states.embedding_NTD[0], input_states(0)[0]))


class TestProcesses:
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_a_worker_reads_with_the_reader_of_its_parent(self, path: Path, method: str) -> None:
        reader = StateReader(path)
        reader.encoder.read(INPUTS)
        worker = multiprocessing.get_context(method).Process(target=check_states, args=(reader,))
        worker.start()
        worker.join()
        assert worker.exitcode == 0
        assert torch.equal(reader.encoder.read(INPUTS).embedding_NTD[0], input_states(0)[0])

    def test_a_reader_is_pickled_without_its_handle(self, path: Path) -> None:
        reader = StateReader(path)
        reader.encoder.read(INPUTS)
        copied = pickle.loads(pickle.dumps(reader))
        reader.close()
        assert torch.equal(copied.encoder.read(INPUTS[2:3]).embedding_NTD[0], input_states(2)[0])


class TestSpec:
    def test_differences_name_the_fields(self) -> None:
        other = SPEC.model_copy(
            update={
                "weights_sha256": "c" * 64,
                "encoder": StackSpec(layers=(0,), width=6, has_final=True),
                "decoder": None,
                "packages": {"torch": "1"},
            }
        )
        assert other.differences(SPEC)[:2] == [
            f"weights_sha256: found {'c' * 12}…, expected {'a' * 12}…",
            "encoder.layers: found [0], expected [0, 2, 3]",
        ]
        assert other.differences(SPEC)[2].startswith("decoder: found none, expected ")

    def test_names_and_packages_do_not_matter(self) -> None:
        renamed = SPEC.model_copy(update={"backbone": "moved/tiny", "packages": {"torch": "1"}})
        assert renamed.differences(SPEC) == []
        assert renamed.digest == SPEC.digest
        assert SPEC.model_copy(update={"dtype": "float16"}).digest != SPEC.digest

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[", "cannot be read as version 1"),
            (SPEC.model_dump_json().replace('"version":1', '"version":2'), "version"),
            (SPEC.model_dump_json().replace("[0,2,3]", "[2,0,3]"), "expected ascending"),
            (SPEC.model_dump_json().replace('"width":6', '"width":-6'), "width"),
            (SPEC.model_dump_json().replace('"version"', '"more":1,"version"'), "more"),
        ],
    )
    def test_other_texts_are_refused(self, text: str, message: str) -> None:
        with pytest.raises(StoreError, match=message):
            StateSpec.from_json(text)
