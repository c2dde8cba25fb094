"""What is special about T5Gemma: unequal stacks, windows, bounded logits, several end tokens."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_backbones import save_backbone, tiny_backbones
from tiny_batches import VISUAL, prompt_ids, tiny_batch, visual_for
from torch import Tensor

from vl_lst.backbones.loading import load_backbone
from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.errors import ModelError
from vl_lst.generation.search import greedy_search
from vl_lst.methods.prompt import Prefix
from vl_lst.models.batch import Batch
from vl_lst.models.config import HeadConfig
from vl_lst.models.joint import JointBackbone, JointModel

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(saved_backbones: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_backbones.folder("t5gemma"), tmp_path / "t5gemma"))


def change(path: Path, changed: dict[str, Any]) -> None:
    """Replace fields of a JSON file; `a.b` is field b of object a, and `...` removes a field."""
    content = json.loads(path.read_text())
    for name, value in changed.items():
        *parents, field = name.split(".")
        target = content
        for parent in parents:
            target = target[parent]
        if value is ...:
            del target[field]
        else:
            target[field] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoder": ...}, "encoder is missing: expected the configuration of a model of type"),
        ({"decoder.hidden_size": "32"}, "decoder.hidden_size: found '32', expected a valid int"),
        ({"encoder.num_hidden_layers": 10**9}, "encoder.num_hidden_layers: found 1000000000"),
        ({"encoder.head_dim": 7}, "encoder: head_dim is 7, expected an even number"),
        ({"decoder.num_key_value_heads": 3}, "decoder: num_key_value_heads is 3, expected a divi"),
        (
            {"encoder.layer_types": ["full_attention"]},
            "layer_types has 1 entries, expected one per",
        ),
        ({"encoder.layer_types": ["chunked_attention"] * 3}, "layer_types.0: found 'chunked_att"),
        ({"encoder.sliding_window": None}, "encoder.sliding_window: found None"),
        ({"encoder.vocab_size": 68}, "encoder has a vocab_size of 68 and the decoder one of 67"),
        ({"eos_token_id": [1, 67]}, "eos_token_id is 67, beyond the vocab_size 67"),
        ({"decoder.bos_token_id": 99}, "decoder: bos_token_id is 99, beyond the vocab_size 67"),
        ({"decoder.hidden_activation": "sorcery"}, "'sorcery', which is not an activation"),
        (
            {"encoder.rope_parameters": {"rope_type": "yarn", "rope_theta": 10.0}},
            "encoder.rope_parameters.rope_type: found 'yarn'",
        ),
        ({"decoder.intermediate_size": 64}, "does not fit config.json: found model.decoder"),
    ],
)
def test_invalid_fields_of_either_stack_are_named(
    folder: Path, changed: dict[str, Any], message: str
) -> None:
    change(folder / "config.json", changed)
    with pytest.raises(ModelError) as caught:
        load_backbone(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_null_in_a_configuration_is_not_the_default(folder: Path) -> None:
    """Without a bound, transformers writes null; the default is a bound."""
    assert load_backbone(folder).backbone.vocabulary_softcap == 2.0
    nothing = {"decoder.final_logit_softcapping": None, "decoder.attn_logit_softcapping": None}
    change(folder / "config.json", nothing)
    backbone = load_backbone(folder).backbone
    assert backbone.vocabulary_softcap is None
    assert backbone.config.decoder.attn_logit_softcapping is None
    assert backbone.config.encoder.attn_logit_softcapping == 50.0


@pytest.mark.parametrize("name", ["t5gemma", "t5gemma2"])
def test_null_for_an_id_is_that_of_the_decoder(
    saved_backbones: Any, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(saved_backbones.folder(name), tmp_path / name))
    expected = load_backbone(folder).backbone
    change(folder / "config.json", {"pad_token_id": None, "eos_token_id": None})
    backbone = load_backbone(folder).backbone
    assert backbone.pad_token_id == expected.pad_token_id
    assert backbone.end_token_ids == expected.end_token_ids


@pytest.mark.parametrize("name", ["t5gemma", "t5gemma2"])
def test_learned_tokens_are_not_scaled_like_embeddings(saved_backbones: Any, name: str) -> None:
    """The encoder scales all that it is given, and learned tokens are not as small as a table."""
    loaded = load_backbone(saved_backbones.folder(name)).backbone
    joint = JointBackbone(loaded.model, dropout=0.0, family=loaded.family)
    model = JointModel(joint, visual=VISUAL, head=HeadConfig(kind="generate")).eval()
    model.prefix = Prefix(3, 5, joint.width)
    assert model.visual is not None
    ids_BT, features_BINF = prompt_ids(joint)[:1], torch.randn(1, 1, VISUAL.tokens, VISUAL.channels)
    inputs: list[Tensor] = []
    first = joint.family.encoder_blocks(joint.model)[0]
    first.register_forward_pre_hook(lambda _module, found: inputs.append(found[0]))
    model.encode(
        Batch(
            features_BINF=features_BINF,
            prompt_ids_UT=ids_BT,
            prompt_index_B=torch.zeros(1, dtype=torch.long),
        )
    )
    (stream_SD,) = inputs[0]
    torch.testing.assert_close(stream_SD[:3], model.prefix())
    torch.testing.assert_close(stream_SD[-VISUAL.tokens :], model.visual(features_BINF)[0])
    size = stream_SD[3 : -VISUAL.tokens] / joint.embed(ids_BT)[0]
    torch.testing.assert_close(size, torch.full_like(size, joint.family.input_scale(joint.config)))


def test_attention_bounds_its_logits(folder: Path) -> None:
    """A fused attention, which some releases of transformers choose, ignores the bound."""
    bound = 0.01
    plain = load_backbone(folder).backbone
    change(folder / "config.json", {"encoder.attn_logit_softcapping": bound})
    bounded = load_backbone(folder).backbone
    ids_UT = prompt_ids(plain)
    assert not torch.allclose(*(b.encode(ids_UT, [0]).final_UTD for b in (plain, bounded)))


def test_a_checkpoint_of_the_base_class_loads(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    expected = load_backbone(folder).fingerprint
    save_file({name.removeprefix("model."): t for name, t in state.items()}, folder / WEIGHTS)
    assert load_backbone(folder).fingerprint == expected


def test_prompts_and_answers_start_with_the_token_of_a_beginning(folder: Path) -> None:
    loaded = load_backbone(folder)
    backbone = loaded.backbone
    start = loaded.tokenizer.bos_token_id
    assert backbone.start_token_id == start
    tokenizer = CachingTokenizer(loaded.tokenizer, start_token_id=start)
    words = tuple(loaded.tokenizer("red blue", add_special_tokens=False).input_ids)
    assert tokenizer.encode_prompt("red blue", 9) == (start, *words)
    assert tokenizer.encode_answer("red blue", 9) == (*words, loaded.tokenizer.eos_token_id)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_answer_ends_at_any_of_the_end_tokens(
    saved_backbones: Any, folder: Path, file: str
) -> None:
    """As in `generate` of the stock model, whichever file lists them."""
    head = HeadConfig(kind="generate")

    def model_and_batch() -> tuple[JointModel, Any]:
        backbone = load_backbone(folder).backbone
        joint = JointBackbone(backbone.model, dropout=0.0)
        model = JointModel(joint, visual=visual_for(joint), head=head).eval()
        return model, tiny_batch(joint, images=0)

    free = greedy_search(*model_and_batch(), max_length=7)
    second = int(free[0, 2])
    change(folder / file, {"eos_token_id": [1, second]})
    model, batch = model_and_batch()
    assert model.backbone.end_token_ids == (1, second)
    assert model.backbone.eos_token_id == 1
    found = greedy_search(model, batch, max_length=7)
    ids_BT = batch.prompt_ids_UT[batch.prompt_index_B]
    expected = saved_backbones.stock("t5gemma").generate(
        input_ids=ids_BT,
        attention_mask=(ids_BT != 0).long(),
        max_length=7,
        do_sample=False,
        eos_token_id=[1, second],
    )
    width = min(found.shape[1], expected.shape[1])
    assert torch.equal(found[:, :width], expected[:, :width])
    assert not torch.equal(found[0, :width], free[0, :width])
    assert not (found[:, width:] != 0).any()


def test_the_cache_keeps_the_window_only_and_all_encoder_states(saved_backbones: Any) -> None:
    backbone = saved_backbones.load("t5gemma").backbone
    ids_UT = prompt_ids(backbone)
    encoded = backbone.encode(ids_UT, [0])
    cache = backbone.new_cache()
    for position in range(ids_UT.shape[1]):
        backbone.decode(
            ids_UT[:, position : position + 1],
            [0],
            encoder_states_PTD=encoded.final_UTD,
            encoder_mask_PT=encoded.mask_UT,
            cache=cache,
        )
    kept = [layer.keys.shape[2] for layer in cache.entries.self_attention_cache.layers]
    assert kept == [backbone.config.decoder.sliding_window - 1, ids_UT.shape[1]]
    memory = [layer.keys.shape[2] for layer in cache.entries.cross_attention_cache.layers]
    assert memory == [ids_UT.shape[1]] * 2


def test_an_output_layer_of_its_own_is_read(tmp_path: Path) -> None:
    tiny = tiny_backbones()["t5gemma"]
    stock = save_backbone(tiny, tmp_path / "untied")
    state = load_file(tmp_path / "untied" / WEIGHTS)
    own = torch.randn_like(stock.get_output_embeddings().weight)
    save_file({**state, "lm_head.out_proj.weight": own}, tmp_path / "untied" / WEIGHTS)
    change(tmp_path / "untied" / "config.json", {"tie_word_embeddings": False})
    backbone = load_backbone(tmp_path / "untied").backbone
    assert torch.equal(backbone.vocabulary_weight, own)
    table = backbone.family.decoder(backbone.model).get_input_embeddings().weight
    assert torch.equal(table, state["model.decoder.embed_tokens.weight"])
