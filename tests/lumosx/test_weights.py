from __future__ import annotations

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from dataengine.lumosx.transformer import PRESETS, DiT, DiTConfig
from dataengine.lumosx.weights import (
    WeightsError,
    from_diffusers,
    load_into,
    load_weights,
    original_keys,
    save_weights,
    to_diffusers,
)


@pytest.fixture
def state(fixtures):
    return load_file(fixtures / "weights.safetensors")


@pytest.fixture
def diffusers_model():
    return WanTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=32,
        text_dim=32,
        freq_dim=64,
        ffn_dim=256,
        num_layers=2,
    )


def test_keys_map_onto_diffusers_own_both_ways(state, diffusers_model):
    names = {key: to_diffusers(key) for key in state}
    assert set(names.values()) == set(diffusers_model.state_dict())
    assert all(from_diffusers(name) == key for key, name in names.items())
    assert names["blocks.1.norm3.weight"] == "blocks.1.norm2.weight"
    assert names["blocks.0.modulation"] == "blocks.0.scale_shift_table"
    assert names["head.modulation"] == "scale_shift_table"
    shapes = {key: tensor.shape for key, tensor in diffusers_model.state_dict().items()}
    assert all(shapes[name] == state[key].shape for key, name in names.items())


@pytest.mark.parametrize(
    "key", ["blocks.0.norm2.weight", "blocks.0.self_attn.q.lora_A.weight", "head.norm.weight", "q"]
)
def test_foreign_keys_have_no_name(key):
    with pytest.raises(WeightsError, match=key):
        to_diffusers(key)


def assert_same(got, state):
    assert set(got) == set(state)
    assert all(torch.equal(got[key], state[key]) for key in state)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "module."])
def test_safetensors_round_trip_under_any_prefix(state, tmp_path, prefix):
    save_weights(state, tmp_path / "plain.safetensors")
    save_file({prefix + key: value for key, value in state.items()}, tmp_path / "prefixed.safetensors")
    assert_same(load_weights(tmp_path / "plain.safetensors"), state)
    assert_same(load_weights(tmp_path / "prefixed.safetensors"), state)
    assert {path.name for path in tmp_path.iterdir()} == {"plain.safetensors", "prefixed.safetensors"}


@pytest.mark.parametrize("nested", [None, "state_dict", "ema"])
def test_pth_files(state, tmp_path, nested):
    torch.save(state if nested is None else {nested: state, "step": 7}, tmp_path / "weights.pth")
    assert_same(load_weights(tmp_path / "weights.pth"), state)


def test_diffusers_folders_sharded_and_not(state, tmp_path, diffusers_model):
    save_weights(state, tmp_path / "diffusers.safetensors", diffusers_keys=True)
    diffusers_model.load_state_dict(load_file(tmp_path / "diffusers.safetensors"), strict=True)
    diffusers_model.save_pretrained(tmp_path / "whole" / "transformer")
    diffusers_model.save_pretrained(tmp_path / "sharded", max_shard_size="400KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert_same(load_weights(tmp_path / "whole"), state)
    assert_same(load_weights(tmp_path / "sharded"), state)


def test_loading_names_every_problem_and_changes_nothing(fixture_model, state):
    before = {key: value.clone() for key, value in fixture_model.state_dict().items()}
    broken = {key: value + 1 for key, value in state.items() if key != "head.head.bias"}
    broken["blocks.0.ffn.0.weight"] = torch.zeros(3, 4)
    broken["blocks.7.modulation"] = torch.zeros(1)
    with pytest.raises(WeightsError) as raised:
        load_into(fixture_model, broken)
    message = str(raised.value)
    assert "1 missing: head.head.bias" in message
    assert "1 unexpected: blocks.7.modulation" in message
    assert "blocks.0.ffn.0.weight (has [3, 4], the model needs [256, 96])" in message
    assert_same(fixture_model.state_dict(), before)


def test_long_lists_are_shortened(tiny_config):
    with pytest.raises(WeightsError, match=r"missing: .*, …"):
        load_into(DiT(tiny_config), {})


def test_values_are_cast_to_the_model(fixture_model, state):
    fixture_model.to(torch.float64)
    load_into(fixture_model, {key: value.bfloat16() for key, value in state.items()})
    assert fixture_model.head.head.weight.dtype is torch.float64


class Payload:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_cannot_run_code(tmp_path, capsys):
    torch.save({"state_dict": {"w": Payload()}}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        load_weights(tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


def test_what_is_not_weights_is_refused(tmp_path, state):
    with pytest.raises(FileNotFoundError, match=r"hf download Wan-AI/Wan2\.1-T2V-1\.3B"):
        load_weights(tmp_path / "none.safetensors")
    (tmp_path / "weights.txt").write_text("no")
    with pytest.raises(WeightsError, match=r"unknown weights format '\.txt'"):
        load_weights(tmp_path / "weights.txt")
    torch.save({"model": state, "ema": state}, tmp_path / "two.pth")
    with pytest.raises(WeightsError, match="no single state dict"):
        load_weights(tmp_path / "two.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        load_weights(tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"0 \.safetensors files"):
        load_weights(tmp_path)


def test_an_index_cannot_point_outside_its_folder(tmp_path):
    (tmp_path / "model").mkdir()
    save_file({"w": torch.zeros(1)}, tmp_path / "outside.safetensors")
    index = {"weight_map": {"w": "../outside.safetensors"}}
    (tmp_path / "model" / "m.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="outside its folder"):
        load_weights(tmp_path / "model")


def test_two_names_for_one_parameter_are_refused(state):
    mixed = {to_diffusers(key): value for key, value in state.items()}
    mixed["head.head.bias"] = state["head.head.bias"]
    with pytest.raises(WeightsError, match=r"two tensors stand for head\.head\.bias"):
        original_keys(mixed)


def original_folder(folder, state, files=3):
    """Wan2.1's own layout: original keys in `files` shards, an index, and config.json beside them."""
    folder.mkdir()
    names = [f"diffusion_pytorch_model-{i + 1:05d}-of-{files:05d}.safetensors" for i in range(files)]
    place = {key: names[i % files] for i, key in enumerate(sorted(state))}
    for name in names:
        save_file({key: state[key] for key in state if place[key] == name}, folder / name)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return index, place


def test_original_keys_in_shards(state, tmp_path):
    original_folder(tmp_path / "wan", state)
    assert_same(load_weights(tmp_path / "wan"), state)


def test_shards_are_what_their_index_says(state, tmp_path):
    index, place = original_folder(tmp_path / "wan", state)
    moved = place | {"head.head.bias": place["blocks.0.modulation"], "blocks.0.modulation": place["head.head.bias"]}
    index.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(WeightsError, match=r"is not what its index says: .*blocks\.0\.modulation"):
        load_weights(tmp_path / "wan")
    index.write_text(json.dumps({"weight_map": place | {"head.head.bias": "gone.safetensors"}}))
    with pytest.raises(WeightsError, match=r"lacks the shard gone\.safetensors|not what its index says"):
        load_weights(tmp_path / "wan")
    (tmp_path / "wan" / place["head.head.bias"]).unlink()
    index.write_text(json.dumps({"weight_map": place}))
    with pytest.raises(WeightsError, match="lacks the shard diffusion_pytorch_model-0000"):
        load_weights(tmp_path / "wan")


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000, '{"weight_map"', "\ud800"]
)
def test_an_index_may_be_anything(tmp_path, text):
    (tmp_path / "m.safetensors.index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(WeightsError, match="no index of shards"):
        load_weights(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"no", b"\xff" * 8, (1 << 60).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"{}junk"],
    ids=["empty", "short", "huge header", "far header", "junk after"],
)
def test_damaged_files_are_named(tmp_path, data):
    for name in ("w.safetensors", "w.pth"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WeightsError, match=f"{name} is not a"):
            load_weights(tmp_path / name)


def test_a_file_cut_short_is_refused(state, tmp_path):
    save_weights(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(WeightsError, match=f"{name} is not a"):
            load_weights(tmp_path / name)


def test_pth_files_from_before_the_zip_format(state, tmp_path):
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(load_weights(tmp_path / "old.pth"), state)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.bool])
def test_quantised_weights_are_not_cast(fixture_model, state, dtype):
    with pytest.raises(WeightsError, match=r"1 not plain floats: blocks\.0\.self_attn\.q\.weight"):
        load_into(fixture_model, state | {"blocks.0.self_attn.q.weight": torch.zeros(96, 96).to(dtype)})


def diffusers_shapes(config):
    """Keys and shapes that diffusers' own class gives to a configuration, without memory for them."""
    with torch.device("meta"):
        theirs = WanTransformer3DModel(**config)
    return {key: tuple(value.shape) for key, value in theirs.state_dict().items()}


@pytest.mark.parametrize(("preset", "heads", "ffn", "layers"), [("1.3b", 12, 8960, 30), ("14b", 40, 13824, 40)])
def test_published_shapes_are_diffusers_own(preset, heads, ffn, layers):
    """The published numbers are written out here: neither side takes them from the other."""
    config = {"num_attention_heads": heads, "attention_head_dim": 128, "ffn_dim": ffn, "num_layers": layers}
    with torch.device("meta"):
        ours = DiT(PRESETS[f"wan2.1-t2v-{preset}"]).state_dict()
    assert {to_diffusers(key): tuple(value.shape) for key, value in ours.items()} == diffusers_shapes(config)


def test_weights_of_another_size_are_named(fixture_model):
    with torch.device("meta"):
        large = DiT(PRESETS["wan2.1-t2v-14b"]).state_dict()
    with pytest.raises(WeightsError, match=r"unexpected: blocks\.2\..*mis-shaped: .*the model needs \[96"):
        load_into(fixture_model, large)


def test_configurations_go_both_ways(fixtures, diffusers_model):
    wan = {"_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": 5120, "eps": 1e-06, "ffn_dim": 13824,
           "freq_dim": 256, "in_dim": 16, "model_type": "t2v", "num_heads": 40, "num_layers": 40, "out_dim": 16,
           "text_len": 512}  # fmt: skip
    assert DiTConfig.from_released(wan, cell_map="exact") == PRESETS["wan2.1-t2v-14b"]
    released = json.loads((fixtures / "weights.json").read_text())["config"]
    config = DiTConfig.from_released(released)
    assert config.to_released() == released
    assert DiTConfig.from_released(config.to_released()) == config
    theirs = dict(diffusers_model.config)
    assert DiTConfig.from_diffusers(theirs, text_len=32, cell_map="released") == config
    made = WanTransformer3DModel.from_config(config.to_diffusers()).config
    assert all(made[key] == value for key, value in theirs.items() if key not in ("_use_default_values", "patch_size"))
    assert tuple(made["patch_size"]) == theirs["patch_size"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_dim": 1280}, "image_dim = 1280"),
        ({"ffn_dim": None}, "lacks ffn_dim"),
        ({"patch_size": [2, 2, 2]}, "one l"),
    ],
)
def test_foreign_diffusers_models_are_refused(diffusers_model, change, message):
    theirs = {key: value for key, value in (dict(diffusers_model.config) | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        DiTConfig.from_diffusers(theirs)
