from __future__ import annotations

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from dataengine.lumosx.transformer import DiT
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
