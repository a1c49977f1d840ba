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


class FaceSettings(StageSettings):
    detector: Literal["centerface"] = "centerface"
    floor: float = Field(0.3, description="detections that score less are not stored")


class CaptionSettings(StageSettings):
    annotator: Literal["colour_baseline"] = "colour_baseline"


class GroundSettings(StageSettings):
    grounder: Literal["face_regions"] = "face_regions"


class SegmentSettings(StageSettings):
    segmenter: Literal["grabcut"] = "grabcut"
    iterations: int = Field(5, ge=1)


class BackgroundSettings(StageSettings):
    inpainter: Literal["cv2"] = "cv2"
    frames: int = Field(9, ge=1, description="frames of the clip that the temporal median looks at")
    dilate_px: int = Field(9, ge=0, description="how far the removed regions are grown, at 360 lines of height")


class EncodeSettings(StageSettings):
    crf: int = Field(20, ge=0, le=51)
    preset: str = "veryfast"
    gop_s: float = Field(1.0, gt=0, le=1.0)


class Stages(Settings):
    probe: ProbeSettings = ProbeSettings()
    shots: ShotSettings = ShotSettings()
    frames: FramesSettings = FramesSettings()
    faces: FaceSettings = FaceSettings()
    caption: CaptionSettings = CaptionSettings()
    ground: GroundSettings = GroundSettings()
    segment: SegmentSettings = SegmentSettings()
    background: BackgroundSettings = BackgroundSettings()
    encode: EncodeSettings = EncodeSettings()


class ClipRules(Settings):
    """How shots become clips."""

    threshold: float = Field(0.3, description="a frame that scores this much belongs to a transition")
    min_s: float = Field(1.0, gt=0)
    max_s: float = Field(10.0, gt=0, description="longer shots are cut into equal parts")
    margin_s: float = Field(0.05, ge=0, description="kept away from a cut on either side")

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s={self.min_s} is longer than max_s={self.max_s}: no clip could be cut")
        return self


class FilterRules(Settings):
    """Which clips and references are good enough. Each refusal carries its rule's name."""

    face_score: float = 0.5
    face_min_px: float = Field(32, description="short side of a face box")
    face_min_stills: int = Field(2, ge=1, le=3, description="stills in which a person must be seen")
    max_subjects: int = Field(3, ge=1)
    max_attributes: int = Field(3, ge=0, le=3)
    owner_min_share: float = Field(0.5, description="the annotator's votes that tie a phrase to a person")
    owner_min_inside: float = Field(0.6, description="share of an attribute's pixels inside its owner's body box")
    owner_min_margin: float = Field(0.2, description="that share less the share inside the next person's body box")
    mask_min_score: float = 0.0
    attribute_min_area: float = Field(0.002, description="share of the frame")
    background_max_filled: float = Field(0.6, description="more invented pixels than this: no background reference")


class PairRules(Settings):
    still: Literal["random", "sharpest"] = Field("sharpest", description="which still an entity's reference comes from")
    val_share: float = Field(0.05, ge=0, lt=1, description="share of the sources that are held out, by source hash")


class DecideSettings(Settings):
    clips: ClipRules = ClipRules()
    filters: FilterRules = FilterRules()
    pairs: PairRules = PairRules()


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
