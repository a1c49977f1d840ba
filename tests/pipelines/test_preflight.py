"""Preflight: all that would stop a build is said at once, before anything runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataengine.config import BuildSettings, load, profile_file
from pipelines.cli import Exit, app
from pipelines.preflight import PreflightError, Tenant, heaviest, preflight
from tiny import flux, lama

runner = CliRunner()

QWEN = ("stages.caption.annotator=qwen2_5_vl", "stages.caption.resources.fused=false")
SAM = ("stages.segment.segmenter=sam", "stages.segment.resources.fused=false", "stages.segment.resources.gpus=0.2")
EVERYTHING = (
    *QWEN,
    "stages.quality.aesthetic.weights=openai/clip-vit-large-patch14",
    "stages.quality.aesthetic.head=head.pth",
    "stages.faces.detector=insightface",
    "stages.faces.bodies=grounding_dino",
    "stages.ground.grounder=grounding_dino",
    "stages.segment.segmenter=sam",
    "stages.background.inpainter=flux_fill",
)


@pytest.fixture(autouse=True)
def nothing_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither hub ids nor the names of files and packs are found."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))


def problems(*overrides: str, cluster: bool = False) -> list[str]:
    return list(preflight(load(BuildSettings, [], overrides), cluster).problems)


def test_the_embedded_profile_lacks_nothing() -> None:
    found = preflight(load(BuildSettings, [(profile_file("embedded"), "build")]))
    found.require()
    assert found.gpus == ()
    assert {"probe", "shots", "faces", "caption", "encode"} <= {demand.stage for demand in found.demands}


def test_all_missing_weights_are_told_with_what_fetches_them() -> None:
    found = problems(*EVERYTHING)
    for stages, command in (
        ("quality", "hf download openai/clip-vit-large-patch14"),
        ("quality", "head.pth"),
        ("faces", "insightface-cli model.download buffalo_l"),
        ("faces, ground", "hf download IDEA-Research/grounding-dino-tiny"),
        ("caption", "hf download Qwen/Qwen2.5-VL-7B-Instruct"),
        ("segment", "curl -LO https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth"),
        ("background", "hf download black-forest-labs/FLUX.1-Fill-dev"),
    ):
        assert [p for p in found if p.startswith(f"{stages}: ") and command in p], command
    assert len(found) == 7


def test_optional_models_are_asked_for_when_they_are_chosen() -> None:
    assert problems() == []
    (nsfw,) = problems("stages.quality.nsfw.weights=Falconsai/nsfw_image_detection")
    assert nsfw.startswith("quality: ") and "hf download Falconsai/nsfw_image_detection" in nsfw
    (looks,) = problems("stages.looks.encoder=clip_image")
    assert looks.startswith("looks: ") and "hf download openai/clip-vit-base-patch32" in looks
    assert problems("stages.looks.encoder=lab_histogram") == []


@pytest.mark.parametrize(
    "rule", ["pairs.cross_clip_share=0.5", "pairs.split_by=identity", "block.faces=somebody.npy"], ids=str
)
def test_who_is_who_needs_embeddings(rule: str) -> None:
    (told,) = problems(f"decide.{rule}")
    assert f"decide.{rule} needs face embeddings, and centerface has none" in told
    assert not any(
        "needs face embeddings" in p for p in problems(f"decide.{rule}", "stages.faces.detector=insightface")
    )


def test_weights_that_are_here_are_named_by_what_pins_them(tmp_path: Path) -> None:
    file = lama.build(tmp_path / "lama.onnx")
    settings = load(BuildSettings, [], ["stages.background.inpainter=lama", f"stages.background.lama.weights={file}"])
    found = preflight(settings)
    found.require()
    assert next(d.revision for d in found.demands if d.stage == "background").startswith("lama.onnx#")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((*QWEN, "stages.caption.qwen.device=cuda"), "caption: qwen.device=cuda with resources.gpus=0"),
        (
            (*QWEN, "stages.caption.qwen.vllm.tensor_parallel=4", "stages.caption.resources.gpus=2"),
            "caption: vllm.tensor_parallel=4 with resources.gpus=2: give it 4",
        ),
        ((*QWEN, "stages.caption.qwen.frames=40"), "more than vllm.max_model_len=16384"),
        (("stages.caption.resources.in_flight=4",), "caption: resources.in_flight=4 with fused"),
        (("stages.ground.resources.gpus=1",), "ground: resources.gpus=1 with fused"),
        (("stages.frames.resources.gpus=1.5",), "frames: resources.gpus=1.5: above one GPU"),
        (
            ("stages.background.inpainter=lama", "stages.background.lama.device=cuda"),
            "background: device cuda: onnxruntime",
        ),
        (("stages.ground.grounder=grounding_dino", "stages.ground.grounding_dino.weights=swint.pth"), "ground: "),
    ],
)
def test_settings_that_do_not_go_together_are_named(overrides: tuple[str, ...], expected: str) -> None:
    assert [p for p in problems(*overrides, cluster=True) if expected in p], problems(*overrides, cluster=True)


def test_a_server_of_the_model_needs_no_gpu_of_ours() -> None:
    assert problems(*QWEN, "stages.caption.qwen.backend=endpoint", "stages.caption.qwen.device=cuda") == []


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = [entry for entry in sys.path if not (Path(entry) / "vllm").is_dir()]
    monkeypatch.setattr(sys, "path", hidden)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    assert [p for p in problems(*QWEN) if "package vllm is missing" in p and "'.[vllm]'" in p]


def test_a_machine_without_gpus_and_one_with_too_few_say_so(driver_of, monkeypatch: pytest.MonkeyPatch) -> None:
    driver_of("No devices were found")
    assert [p for p in problems(*SAM) if "ask for 0.2 GPUs and this machine has none" in p]
    driver_of("Some GPU, 24576")
    assert not [p for p in problems(*SAM) if "GPUs and this machine" in p]
    assert [
        p for p in problems(*SAM, "stages.segment.resources.workers=6") if "for 1.2 GPUs and this machine has 1" in p
    ]


def test_models_that_share_a_gpu_must_fit_it_together(driver_of) -> None:
    shared = (*QWEN, *SAM, "stages.caption.resources.gpus=0.8")
    driver_of("Some GPU, 24576")
    too_much = [p for p in problems(*shared) if "may share it" in p]
    assert len(too_much) == 1
    assert "caption" in too_much[0] and "segment" in too_much[0] and "24.0 GiB" in too_much[0]
    driver_of("Some GPU, 81920")
    assert not [p for p in problems(*shared, "stages.caption.qwen.vllm.gpu_memory=0.8") if "share" in p]


def test_the_share_that_vllm_may_take_must_hold_the_model(driver_of) -> None:
    driver_of("Some GPU, 24576")
    asked = (*QWEN, "stages.caption.resources.gpus=1", "stages.caption.qwen.vllm.gpu_memory=0.5")
    assert [p for p in problems(*asked) if "vllm.gpu_memory=0.5 of a Some GPU is 12.0 GiB, the model needs" in p]


@pytest.mark.parametrize(
    ("tenants", "expected"),
    [
        ([("a", 60, 20), ("b", 50, 15), ("c", 40, 9)], "ac"),  # a and b never meet
        ([("a", 100, 20), ("b", 50, 15), ("c", 50, 9)], "bc"),
        ([("a", 30, 5)] * 4, "aaa"),
        ([], ""),
    ],
)
def test_the_worst_company_on_a_gpu_is_found(tenants: list, expected: str) -> None:
    assert "".join(tenant.name for tenant in heaviest([Tenant(*t) for t in tenants])) == expected


@pytest.mark.parametrize("name", ["gpu", "cluster"])
def test_profiles_lack_nothing_but_weights(name: str) -> None:
    settings = load(BuildSettings, [(profile_file(name), "build")])
    found = preflight(settings, cluster=True)
    assert found.problems, "no weights are here"
    assert all("Download" in problem for problem in found.problems), found.problems
    networks = {demand.stage for demand in found.demands if demand.has_weights}
    assert {"faces", "caption", "ground", "segment"} <= networks
    assert all(demand.gib > 0 for demand in found.demands if demand.gpus)
    assert not any(demand.gpus and not demand.has_weights for demand in found.demands), "no GPU for rules"


@pytest.mark.parametrize("gib", [24, 40, 80])
def test_the_gpu_profile_fits_the_gpus_it_names(gib: int, driver_of) -> None:
    file = profile_file("gpu")
    small = re.findall(r"^#   (stages\.\S+)$", file.read_text(), re.MULTILINE)
    assert small, "what the profile says of cards of 24 GiB"
    for overrides, fits in (([], gib >= 40), (small, True)):
        driver_of(f"Some GPU, {gib * 1024}")
        found = [
            p for p in preflight(load(BuildSettings, [(file, "build")], overrides)).problems if "Download" not in p
        ]
        assert (not found) == fits, found


def test_the_cluster_profile_fits_gpus_of_80_gb(driver_of) -> None:
    driver_of("Some GPU, 81559")
    settings = load(BuildSettings, [(profile_file("cluster"), "build")])
    found = [p for p in preflight(settings).problems if "Download" not in p]
    assert found == ["the stages ask for 5.5 GPUs and this machine has 1: lower stages.*.resources (workers, gpus)"], (
        "of that one GPU, what may share it fits"
    )


def test_build_stops_before_it_writes_anything(tmp_path: Path) -> None:
    words = ["build", "--input", str(tmp_path), "--output", str(tmp_path / "out"), *EVERYTHING]
    result = runner.invoke(app, words)
    assert result.exit_code == Exit.USAGE
    assert "preflight found 7 problems; nothing was started" in result.output
    assert not (tmp_path / "out").exists()


def test_the_command_shows_every_model_and_every_problem(tmp_path: Path) -> None:
    result = runner.invoke(app, ["preflight", *EVERYTHING])
    assert result.exit_code == Exit.USAGE
    assert "qwen2.5-vl" in result.output and "7. background" in result.output
    weights = [f"stages.background.flux_fill.weights={flux.build(tmp_path / 'flux')}"]
    result = runner.invoke(app, ["preflight", "stages.background.inpainter=flux_fill", *weights])
    assert result.exit_code == Exit.DONE
    assert "all good" in result.output and "flux#" in result.output


NODE = """
import sys, logging, ray
from dataengine.config import BuildSettings, load
from pipelines.preflight import PreflightError, preflight_nodes
ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, logging_level=logging.ERROR)
try:
    preflight_nodes(load(BuildSettings, [], sys.argv[1:]))
except PreflightError as error:
    print(error)
"""


@pytest.mark.ray
def test_nodes_of_a_cluster_look_for_themselves(driver_of) -> None:
    driver_of("Small GPU, 3072")
    done = subprocess.run(
        [sys.executable, "-c", NODE, *SAM], capture_output=True, text=True, env=os.environ, timeout=200
    )
    assert "preflight found 2 problems" in done.stdout, done.stderr
    assert "curl -LO" in done.stdout and "a GPU (Small GPU) has 3.0 GiB" in done.stdout
    assert done.stdout.count("node ") == 2


def test_the_message_counts_and_numbers() -> None:
    with pytest.raises(PreflightError, match=r"found one problem.*\n  1\. frames: "):
        preflight(load(BuildSettings, [], ["stages.frames.resources.gpus=1.5"]), cluster=True).require()
