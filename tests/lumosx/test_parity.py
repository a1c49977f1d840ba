from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from dataengine.lumosx.parity import load_fixture, load_model, main

CASES = ("case1_one_subject_face", "case3_two_subjects_bg_object")


@pytest.fixture
def folder(fixtures, tmp_path):
    """A parity folder with the released weights and no case yet."""
    for name in ("weights.json", "weights.safetensors"):
        (tmp_path / name).symlink_to(fixtures / name)
    return tmp_path


@pytest.fixture
def two(fixtures):
    """json and tensors of both cases; they differ in frames, grid and references."""
    return [(json.loads((fixtures / f"{c}.json").read_text()), load_file(fixtures / f"{c}.safetensors")) for c in CASES]


def write(folder, name, spec, tensors):
    (folder / f"{name}.json").write_text(json.dumps(spec))
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")


INPUTS = ("x", "cond_latents", "context", "timestep")


def alone(spec, tensors):
    return {key: tensors[key] for key in INPUTS} | {"velocity_alone": tensors["out"][:, : spec["video_frames"]]}


def test_released_cases_and_sampler_agree(fixtures, capsys):
    assert main([str(fixtures)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(CASES) and all(line.endswith("ok") for line in lines)
    assert main([str(fixtures), "--sampler"]) == 0
    assert capsys.readouterr().out.count("ok") == 2


def test_runs_as_a_module_without_the_rest_of_the_project(fixtures):
    """Only torch, safetensors and the standard library are imported, as on a bare GPU machine."""
    code = (
        "import sys; from dataengine.lumosx.parity import main; status = main(sys.argv[1:]);"
        "heavy = {'diffusers', 'transformers', 'ray', 'pydantic', 'omegaconf', 'webdataset'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(fixtures)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    "key", ["sample{i}.{name}", "{name}_{i}", "{i}/{name}", "{name}.s{i}", "samples.{i}.{name}", "{label}.{name}"]
)
@pytest.mark.parametrize("first", [0, 1])
def test_quirk_batches_of_unlike_samples(folder, two, capsys, key, first):
    samples = [spec | {"name": f"sub{label}"} for (spec, _), label in zip(two, "ab", strict=True)]
    tensors = {
        key.format(i=index + first, name=name, label=f"sub{'ab'[index]}"): tensor
        for index, pair in enumerate(two)
        for name, tensor in alone(*pair).items()
    }
    tensors["out"] = torch.zeros(2, 16, 1, 1, 1)  # what the released code makes of the batch is wrong and not used
    write(folder, "quirk_batch", {"name": "quirk_batch", "samples": samples}, tensors)
    assert main([str(folder)]) == 0, capsys.readouterr().out
    assert "samples 2: ok" in capsys.readouterr().out


def test_quirk_batch_stacked_with_conditions_per_sample(folder, two, capsys):
    """One grid, references padded to the longest: the layout of the released forward."""
    spec, tensors = two[1]
    model = load_model(folder)
    fewer = spec["conditions"][:5]
    expected = []
    for conditions in (spec["conditions"], fewer):
        write(folder, "case_tmp", spec | {"conditions": conditions}, tensors)
        (sample,) = load_fixture(folder / "case_tmp.json", model.config)
        with torch.no_grad():
            layout = model.layout([sample.structure])
            expected += model(
                [sample.latent], [sample.references], [sample.context], sample.timestep.reshape(1), layout
            )
    (folder / "case_tmp.json").unlink()
    batch = {
        "x": torch.stack([tensors["x"]] * 2),
        "cond_latents": torch.stack([tensors["cond_latents"]] * 2),
        "context": torch.stack([torch.nn.functional.pad(tensors["context"], (0, 0, 0, 5))] * 2),
        "timestep": torch.cat([tensors["timestep"]] * 2),
        "velocity_alone": torch.stack(expected),
    }
    stacked = {"conditions": [spec["conditions"], fewer], "groups_counted": [2, 2], "text_tokens": [27, 27]}
    write(folder, "quirk_stacked", stacked, batch)
    assert main([str(folder)]) == 0, capsys.readouterr().out
    assert "samples 2: ok" in capsys.readouterr().out
    batch["velocity_alone"][1] += 1e-4  # every sample of the batch counts
    write(folder, "quirk_stacked", stacked, batch)
    assert main([str(folder)]) == 1


def test_quirk_of_named_cases(folder, two, fixtures, capsys):
    for name in CASES:
        (folder / f"{name}.json").symlink_to(fixtures / f"{name}.json")
        (folder / f"{name}.safetensors").symlink_to(fixtures / f"{name}.safetensors")
    tensors = {
        f"{name}.{key}": value for name, pair in zip(CASES, two, strict=True) for key, value in alone(*pair).items()
    }
    write(folder, "quirk_named", {"samples": list(CASES)}, tensors)
    assert main([str(folder)]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.count("ok") == 3


def test_a_wrong_output_fails(folder, two, capsys):
    spec, tensors = two[0]
    write(folder, "case_wrong", spec, tensors | {"out": tensors["out"] + 6e-5})
    assert main([str(folder)]) == 1
    assert "DIFFERS" in capsys.readouterr().out
    write(folder, "case_wrong", spec, tensors | {"out": tensors["out"] * torch.nan})
    assert main([str(folder)]) == 1


def test_groups_counted_matters(folder, two, capsys):
    """An empty group that is forgotten changes the bias by more than the tolerance."""
    spec, tensors = two[1]
    write(folder, "case_empty", spec | {"groups_counted": 3, "empty_groups": [2]}, tensors)
    assert main([str(folder)]) == 1


def test_what_is_missing_is_named(folder, two, capsys):
    assert main([str(folder)]) == 1
    assert "no case*.json or quirk*.json" in capsys.readouterr().out
    spec, tensors = two[0]
    write(folder, "case_a", spec, {key: value for key, value in tensors.items() if key != "context"})
    write(folder, "quirk_b", {"samples": [spec]}, tensors)
    write(folder, "case_c", {"tensors": {}}, tensors)
    assert main([str(folder)]) == 1
    a, c, b = capsys.readouterr().out.splitlines()
    assert "no tensor 'context'" in a and "text_masks" in a
    assert "no tensor 'velocity_alone'" in b
    assert "nothing in it has a list 'conditions'" in c


def test_structure_can_be_read_from_groups_and_masks(folder, two, capsys):
    """Without group and text_positions in the conditions, `groups` and the tensor `text_masks` say the same."""
    spec, tensors = two[1]
    conditions = [{"kind": "thing"} for _ in spec["conditions"]]
    lean = {"conditions": conditions, "groups": spec["groups"], "empty_groups": []}
    write(folder, "case_lean", lean, tensors)
    assert main([str(folder)]) == 0, capsys.readouterr().out
