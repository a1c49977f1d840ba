"""Exports are read back by the programs they are for, and compute the same; nothing else keeps its name."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, WanPipeline, WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dataengine.config import ConfigError, load
from dataengine.lumosx import export as exports
from dataengine.lumosx.export import LORA_COMFYUI_FILE, RELEASED_FILE, ExportError, Target, export
from dataengine.lumosx.lora_formats import Lora, merged, to_comfyui_lora
from dataengine.lumosx.pipeline import RelationalPipeline, load_transformer, read_settings
from dataengine.lumosx.request import Request, Shown, SubjectRequest
from dataengine.lumosx.settings import SamplingSettings, TrainSettings
from dataengine.lumosx.structure import SampleStructure
from dataengine.lumosx.trained import Trained
from dataengine.lumosx.transformer import DiT
from dataengine.lumosx.weights import WeightsError, load_into, to_diffusers

ALONE = (
    "model.dim=48", "model.ffn_dim=96", "model.heads=2", "model.layers=2", "text.max_tokens=16",
    "data.height=32", "data.width=48", "data.frames=5", "sampling.steps=3",
)  # fmt: skip


@pytest.fixture
def trained(tiny_config, make_model, tmp_path) -> Trained:
    """A run's weights in the embedded profile's shapes (16 channels, MiniLM's 384), all of them random."""
    settings = load(TrainSettings, overrides=ALONE)
    config = dataclasses.replace(
        tiny_config, dim=48, ffn_dim=96, heads=2, in_channels=16, out_channels=16, text_dim=384, text_len=16
    )
    weights = {key: value.clone() for key, value in make_model(config).state_dict().items()}
    return Trained(tmp_path / "first", 7, settings, config, weights, weights, None)


@pytest.fixture
def adapters() -> dict[str, torch.Tensor]:
    """Rank 4 on every linear layer of both blocks."""
    drawn = torch.Generator().manual_seed(3)
    shapes = {f"{a}.{x}": (48, 48) for a in ("self_attn", "cross_attn") for x in "qkvo"}
    shapes |= {"ffn.0": (96, 48), "ffn.2": (48, 96)}
    tensors = {}
    for block in range(2):
        for layer, (rows, columns) in shapes.items():
            tensors[f"blocks.{block}.{layer}.lora_A.weight"] = 0.1 * torch.randn(4, columns, generator=drawn)
            tensors[f"blocks.{block}.{layer}.lora_B.weight"] = 0.1 * torch.randn(rows, 4, generator=drawn)
    return tensors


@pytest.fixture
def with_lora(trained, adapters) -> Trained:
    lora = Lora(adapters, alpha=12.0)
    return dataclasses.replace(trained, weights=merged(trained.base, lora), lora=lora)


def velocity(config, weights, latents, times, text):
    model = DiT(config)
    load_into(model, weights)
    structures = [SampleStructure(latents.shape[2], (latents.shape[3] // 2, latents.shape[4] // 2))] * len(latents)
    return torch.stack(
        model.requires_grad_(False)(list(latents), [None] * len(latents), list(text), times, model.layout(structures))
    )


def inputs(config):
    drawn = torch.Generator().manual_seed(9)
    return (
        torch.randn(2, 16, 3, 6, 10, generator=drawn),
        torch.tensor([3, 801]),
        torch.randn(2, config.text_len, config.text_dim, generator=drawn),
    )


# --- diffusers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_diffusers_folder(trained, tmp_path, dtype):
    made = export(trained, Target.DIFFUSERS, tmp_path / "out", dtype=dtype, verify=True)
    assert made.checks["RelationalPipeline"] == 0
    assert made.checks["diffusers' WanPipeline"] < 5e-5
    assert {"model_index.json", "transformer/config.json", "relational.json", "README.md"} <= set(made.files)
    pipeline = WanPipeline.from_pretrained(tmp_path / "out", vae=None, text_encoder=None, tokenizer=None)
    assert isinstance(pipeline.transformer, WanTransformer3DModel)
    latents, times, text = inputs(trained.config)
    with torch.no_grad():
        got = pipeline.transformer.float()(latents, times, text).sample
    rounded = {key: value.to(dtype).float() for key, value in trained.weights.items()}
    torch.testing.assert_close(got, velocity(trained.config, rounded, latents, times, text), atol=5e-5, rtol=0)


def test_the_folder_generates_through_diffusers_alone(trained, tmp_path):
    """WanPipeline's whole loop, with embeddings and latents in place of the parts that the embedded profile lacks."""
    export(trained, Target.DIFFUSERS, tmp_path / "out")
    pipeline = WanPipeline.from_pretrained(tmp_path / "out", vae=None, text_encoder=None, tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.scheduler, DPMSolverMultistepScheduler)
    assert pipeline.scheduler.config.flow_shift == trained.settings.sampling.shift
    _, _, text = inputs(trained.config)
    frames = pipeline(
        prompt_embeds=text[:1], negative_prompt_embeds=text[1:], height=32, width=48, num_frames=5,
        num_inference_steps=3, guidance_scale=2.0, output_type="latent", max_sequence_length=16,
    ).frames  # fmt: skip
    assert frames.shape == (1, 16, 2, 4, 6) and frames.isfinite().all()


def test_the_folder_generates_with_references(trained, tmp_path):
    export(trained, Target.DIFFUSERS, tmp_path / "out")
    pipeline = RelationalPipeline.from_pretrained(tmp_path / "out")
    assert pipeline.settings.step == 7
    image = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8).numpy()
    request = Request("one", "a man in a hat", (SubjectRequest(Shown("man", image), (Shown("hat", image),)),))
    frames = pipeline(request)
    assert frames.shape == (5, 32, 48, 3)
    seen = []
    other = pipeline(
        dataclasses.replace(request, subjects=()), SamplingSettings(steps=2), lambda step, latent: seen.append(step)
    )
    assert (other != frames).any() and seen == [0, 1]


def test_the_readme_runs(trained, tmp_path, monkeypatch):
    export(trained, Target.DIFFUSERS, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "out")
    names: dict = {}
    exec(code, names)
    assert isinstance(names["pipeline"], WanPipeline)


def with_parts(trained, codec, text):
    settings = load(
        TrainSettings,
        overrides=(*ALONE, "codec.name=wan", f"codec.model={codec}", "text.name=umt5", f"text.model={text}"),
    )
    return dataclasses.replace(trained, settings=settings)


def test_local_parts_come_along(trained, tmp_path, wan_parts):
    """Wan VAE and UMT5 of the real architectures, tiny: diffusers loads the folder with nothing said."""
    trained = with_parts(trained, wan_parts, wan_parts)
    config = dataclasses.replace(trained.config, text_dim=16)
    torch.manual_seed(0)
    model = DiT(config)
    trained = dataclasses.replace(trained, config=config, weights=model.state_dict(), base=model.state_dict())
    made = export(trained, Target.DIFFUSERS, tmp_path / "out", verify=True)
    assert not [note for note in made.notes if "is not here" in note]
    shutil.move(wan_parts, tmp_path / "gone")
    pipeline = WanPipeline.from_pretrained(tmp_path / "out")
    assert type(pipeline.vae).__name__ == "AutoencoderKLWan"
    pipeline.set_progress_bar_config(disable=True)
    clip = pipeline(
        "a man", height=32, width=48, num_frames=5, num_inference_steps=2, guidance_scale=1.0, max_sequence_length=16,
        output_type="np",
    ).frames  # fmt: skip
    assert clip.shape == (1, 5, 32, 48, 3)
    assert RelationalPipeline.from_pretrained(tmp_path / "out")(Request("a", "a man")).shape == (5, 32, 48, 3)


def test_parts_of_the_hub_are_named(trained, tmp_path):
    made = export(with_parts(trained, "Wan-AI/X", "Wan-AI/Y"), Target.DIFFUSERS, tmp_path / "out", verify=True)
    assert [note for note in made.notes if note == "vae is not here but at Wan-AI/X@main"]
    readme = (tmp_path / "out" / "README.md").read_text()
    assert 'vae=AutoencoderKLWan.from_pretrained("Wan-AI/X", subfolder="vae", revision="main")' in readme
    assert 'tokenizer=AutoTokenizer.from_pretrained("Wan-AI/Y", subfolder="tokenizer"' in readme
    assert read_settings(tmp_path / "out").codec.model == "Wan-AI/X"


@pytest.mark.parametrize(
    ("file", "content", "error", "message"),
    [
        ("relational.json", "{}", ConfigError, "no exported pipeline"),
        ("relational.json", None, ConfigError, "no exported pipeline"),
        ("transformer/config.json", "[]", WeightsError, "not the configuration"),
        ("transformer/config.json", '{"ffn_dim": 3}', WeightsError, "lacks num_layers"),
        ("transformer/diffusion_pytorch_model.safetensors", "x", WeightsError, "not a readable safetensors"),
    ],
)
def test_damaged_folders_are_refused(trained, tmp_path, file, content, error, message):
    export(trained, Target.DIFFUSERS, tmp_path / "out")
    (tmp_path / "out" / file).unlink() if content is None else (tmp_path / "out" / file).write_text(content)
    with pytest.raises(error, match=message):
        RelationalPipeline.from_pretrained(tmp_path / "out")


# --- released scripts -------------------------------------------------------------------------------------------------


def test_released_file(trained, tmp_path, fixtures):
    made = export(trained, Target.RELEASED, tmp_path / "out", verify=True)
    assert made.checks == {"released keys": 0.0}
    released = json.loads((fixtures / "weights.json").read_text())
    got = load_file(tmp_path / "out" / RELEASED_FILE)  # what the authors' `load_checkpoint` does with a .safetensors
    assert sorted(got) == sorted(released["keys"])
    assert all(torch.equal(got[key], value) for key, value in trained.weights.items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.keys() == released["config"].keys()
    assert (config["dim"], config["text_len"], config["ratio"]) == (48, 16, 0.5)


def test_a_cell_map_that_the_scripts_have_not_is_said(trained, tmp_path):
    assert "cell_map=exact" in export(trained, Target.RELEASED, tmp_path / "a").notes[0]
    wide = trained.settings.model_copy(update={"data": trained.settings.data.model_copy(update={"width": 128})})
    assert export(dataclasses.replace(trained, settings=wide), Target.RELEASED, tmp_path / "b").notes == ()
    sheared = dataclasses.replace(trained.config, cell_map="released")
    assert export(dataclasses.replace(trained, config=sheared), Target.RELEASED, tmp_path / "c").notes == ()


@pytest.mark.parametrize("switch", ["r2pe", "csam"])
def test_a_switch_that_the_scripts_have_not_is_refused_and_ours_keep_it(trained, tmp_path, switch):
    off = dataclasses.replace(trained, config=dataclasses.replace(trained.config, **{switch: False}))
    with pytest.raises(ExportError, match="--to diffusers keeps both"):
        export(off, Target.RELEASED, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert export(off, Target.DIFFUSERS, tmp_path / "b", verify=True).checks
    assert json.loads((tmp_path / "b" / "relational.json").read_text())[switch] is False


def test_half_the_size(trained, tmp_path):
    full = export(trained, Target.RELEASED, tmp_path / "a")
    half = export(trained, Target.RELEASED, tmp_path / "b", dtype=torch.bfloat16, verify=True)
    assert half.nbytes < 0.55 * full.nbytes
    assert half.checks == {"released keys": 0.0}


# --- LoRA -------------------------------------------------------------------------------------------------------------


def theirs_with_lora(trained, folder, file):
    """diffusers' transformer with the base's weights, the adapters put on by diffusers' own loader."""
    transformer = WanTransformer3DModel.from_config(trained.config.to_diffusers())
    transformer.load_state_dict({to_diffusers(key): value for key, value in trained.base.items()}, strict=True)
    pipeline = WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=DPMSolverMultistepScheduler(), transformer=transformer
    )
    pipeline.load_lora_weights(folder, **({"weight_name": file} if file else {}))
    return transformer


@pytest.mark.parametrize(("target", "file"), [(Target.LORA_DIFFUSERS, None), (Target.LORA_COMFYUI, LORA_COMFYUI_FILE)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_through_diffusers_own_loader(with_lora, tmp_path, target, file, dtype):
    made = export(with_lora, target, tmp_path / "out", dtype=dtype, verify=True)
    assert made.checks["diffusers' LoRA loader"] < 5e-5
    latents, times, text = inputs(with_lora.config)
    with torch.no_grad():
        got = theirs_with_lora(with_lora, tmp_path / "out", file)(latents, times, text).sample
    merged_here = velocity(with_lora.config, with_lora.weights, latents, times, text)
    base = velocity(with_lora.config, with_lora.base, latents, times, text)
    assert (merged_here - base).abs().max() > 0.1
    tolerance = 5e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(got, merged_here, atol=tolerance, rtol=0)


def test_comfyui_names(with_lora, tmp_path):
    """ComfyUI looks for `diffusion_model.<name>` of every weight it has, and reads lora_A, lora_B and alpha."""
    export(with_lora, Target.LORA_COMFYUI, tmp_path / "out")
    file = load_file(tmp_path / "out" / LORA_COMFYUI_FILE)
    state, used = {}, set()
    for key, weight in with_lora.base.items():
        name = "diffusion_model." + key.removesuffix(".weight")
        up, down = file.get(f"{name}.lora_B.weight"), file.get(f"{name}.lora_A.weight")
        used |= {f"{name}.lora_B.weight", f"{name}.lora_A.weight"}
        assert f"{name}.alpha" not in file, "without it, ComfyUI takes the product as it is"
        state[key] = weight if up is None or not key.endswith(".weight") else weight + up @ down
    assert file.keys() <= used and len(file) == 40
    for key, value in with_lora.weights.items():
        torch.testing.assert_close(state[key], value, atol=1e-6, rtol=0)
    with safe_open(tmp_path / "out" / LORA_COMFYUI_FILE, "pt") as header:
        assert header.metadata()["rank"] == "4"


def test_a_lora_run_also_exports_whole(with_lora, tmp_path):
    export(with_lora, Target.RELEASED, tmp_path / "out", verify=True)
    got = load_file(tmp_path / "out" / RELEASED_FILE)
    change = (
        12.0
        / 4
        * (
            with_lora.lora.tensors["blocks.1.ffn.2.lora_B.weight"]
            @ with_lora.lora.tensors["blocks.1.ffn.2.lora_A.weight"]
        )
    )
    torch.testing.assert_close(got["blocks.1.ffn.2.weight"], with_lora.base["blocks.1.ffn.2.weight"] + change)


def test_without_adapters_there_is_no_lora(trained, tmp_path):
    for target in (Target.LORA_DIFFUSERS, Target.LORA_COMFYUI):
        with pytest.raises(ExportError, match="trained all weights, so it has no LoRA"):
            export(trained, target, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_untrained_adapters_prove_nothing(trained, adapters, tmp_path):
    zero = {key: value * ("lora_A" in key) for key, value in adapters.items()}
    lora = Lora(zero, 4.0)
    with pytest.raises(ExportError, match="20 of 20 adapters are not what was trained, or were not trained"):
        export(dataclasses.replace(trained, lora=lora), Target.LORA_DIFFUSERS, tmp_path / "out", verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blocks.0.ffn.0.lora_A.weight"), r"blocks\.0\.ffn\.0\.lora_B"),
        (lambda t: t.update({"blocks.0.ffn.0.alpha": torch.ones(())}), "alpha"),
        (lambda t: t.update({"blocks.0.ffn.0.lora_A.weight": torch.ones(3, 48)}), "do not meet"),
        (lambda t: t.clear(), "empty"),
    ],
)
def test_adapters_that_are_none(adapters, change, message):
    change(adapters)
    with pytest.raises(WeightsError, match=message):
        Lora(adapters, 1.0)


def test_adapters_of_another_model(trained, adapters):
    wrong = {key.replace("blocks.1", "blocks.9"): value for key, value in adapters.items()}
    with pytest.raises(WeightsError, match=r"blocks\.9\..*no such layer.*another model"):
        merged(trained.base, Lora(wrong, 1.0))
    with pytest.raises(WeightsError, match=r"has no|not a parameter"):
        to_comfyui_lora(
            Lora(
                {"blocks.0.norm2.lora_A.weight": torch.ones(1, 2), "blocks.0.norm2.lora_B.weight": torch.ones(2, 1)},
                1.0,
            )
        )


# --- Whole or absent --------------------------------------------------------------------------------------------------


def test_an_export_is_not_mixed_with_another(trained, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="exists"):
        export(trained, Target.RELEASED, tmp_path / "out")


def spoil_released(folder):
    state = load_file(folder / RELEASED_FILE)
    q, k = "blocks.1.self_attn.q.weight", "blocks.1.self_attn.k.weight"
    save_file(state | {q: state[k], k: state[q]}, folder / RELEASED_FILE)


def spoil_diffusers(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    a, b = "blocks.0.attn2.to_k.bias", "blocks.0.attn2.to_v.bias"
    save_file(state | {a: state[b], b: state[a]}, file, metadata={"format": "pt"})


def spoil_relational(folder):
    """Only the binding of phrases: diffusers cannot see it, so the second reader must."""
    text = (folder / "relational.json").read_text()
    (folder / "relational.json").write_text(text.replace('"mcam_ratio": 0.5', '"mcam_ratio": 0.4'))


def spoil_lora(folder):
    (file,) = folder.glob("*.safetensors")
    state = load_file(file)
    one = next(key for key in state if key.endswith("to_v.lora_B.weight"))
    save_file(state | {one: torch.zeros_like(state[one])}, file)


@pytest.mark.parametrize(
    ("target", "spoil"),
    [
        (Target.RELEASED, spoil_released),
        (Target.DIFFUSERS, spoil_diffusers),
        (Target.DIFFUSERS, spoil_relational),
        (Target.LORA_DIFFUSERS, spoil_lora),
    ],
)
def test_verify_sees_what_is_wrong_and_nothing_is_kept(with_lora, tmp_path, monkeypatch, target, spoil):
    write, check = exports._WAYS[target]

    def spoilt(trained, folder, dtype):
        notes = write(trained, folder, dtype)
        spoil(folder)
        return notes

    monkeypatch.setitem(exports._WAYS, target, (spoilt, check))
    with pytest.raises(ExportError, match=r"computes something else|1 of 20 adapters"):
        export(with_lora, target, tmp_path / "out", verify=True)
    assert list(tmp_path.iterdir()) == []


def test_an_untrained_model_proves_nothing(trained, tmp_path):
    weights = trained.weights | {
        key: torch.zeros_like(trained.weights[key]) for key in ("head.head.weight", "head.head.bias")
    }
    with pytest.raises(ExportError, match="has not been trained"):
        export(dataclasses.replace(trained, weights=weights), Target.RELEASED, tmp_path / "out", verify=True)


def test_the_transformer_of_a_folder_is_the_runs(trained, tmp_path):
    export(trained, Target.DIFFUSERS, tmp_path / "out")
    model = load_transformer(tmp_path / "out", read_settings(tmp_path / "out"))
    assert model.config == trained.config
    assert all(torch.equal(value, trained.weights[key]) for key, value in model.state_dict().items())
