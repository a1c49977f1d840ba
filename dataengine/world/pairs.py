"""Training pairs straight from the world's truth: the dataset that a build without any mistake would have made.

Measurements are written down from the truth instead of being measured; who owns what, which still a reference comes
from, how it is cut and packed is the project's own code. So `dataengine evaluate` on such a dataset judges that code
alone, and a model can be trained on it without any network.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image as PilImage

from dataengine import masks
from dataengine.config import DecideSettings, FilterRules, PairRules, ShardSettings
from dataengine.decide.facts import Measured
from dataengine.decide.pairs import decide_pair
from dataengine.records import (
    STILL_POSITIONS,
    Background,
    Caption,
    Clip,
    EncodedClip,
    EntityMask,
    GroundedBox,
    Grounding,
    Mention,
    Pair,
    People,
    Person,
    PersonMention,
    Phrase,
    Provenance,
    Segmentation,
    Sighting,
    Still,
    Stills,
    Vote,
)
from dataengine.shards.assembly import Member, assemble, png
from dataengine.shards.index import INDEX, SHARDS, IndexRow, write_index
from dataengine.shards.plan import SampleName, plan_shards
from dataengine.shards.reader import Sample
from dataengine.shards.writer import write_shard
from dataengine.store import Store
from dataengine.video import encode_clip
from dataengine.world import drawing
from dataengine.world.figure import SCALE
from dataengine.world.make import VideoTruth
from dataengine.world.things import Place, draw_place

_QUALITY = 95
RULES = DecideSettings(
    filters=FilterRules(
        face_min_px=1,
        face_min_stills=1,
        owner_min_inside=0,
        owner_min_margin=-1,
        owner_min_stills=0,
        attribute_min_area=0,
        background_max_filled=1,
    ),
    pairs=PairRules(still="unoccluded", val_share=0),
)
"""Truth needs no filter: whatever has a visible pixel is taken."""


def measured(truth: VideoTruth, number: int, frames: int | None = None) -> Measured:
    """What stages without error would have measured of a shot.

    Args:
        number: of the shot.
        frames: of the clip, from the shot's middle; None: all of the shot, without the dissolve that it begins with.
    """
    clip, first, count = window(truth, number, frames)
    shot, made = truth.shots[number], truth.script
    at, stills = stills_of(truth, number, frames)
    seen = {n: _entities(truth, n) for n in set(at)}
    found = [m.model_copy(update={"still": still}) for still, n in enumerate(at) for m in seen[n].values()]
    named = [m for m in found if not m.entity.endswith(".face")]
    place = made.shots[number]
    return Measured(
        clip=clip,
        source_names=(f"{truth.name}.mp4",),
        stills=stills,
        people=People(people=tuple(_person(i, [seen[n] for n in at]) for i in range(len(shot.people)))),
        caption=_caption(truth, number),
        grounding=Grounding(
            boxes=tuple(GroundedBox(entity=m.entity, still=m.still, box=m.box, score=1.0) for m in named)
        ),
        segmentation=Segmentation(masks=tuple(named)),
        background=Background(
            image=_background(place.place, place.place_seed, truth.width, truth.height),
            seen_share=1.0,
            filled_share=0.0,
        ),
        encoded=EncodedClip(
            mp4=encode_clip((drawing.frame(made, first + k) for k in range(count)), truth.fps, preset="veryfast"),
            width=truth.width,
            height=truth.height,
            fps=truth.fps,
            frames=count,
        ),
    )


def samples(truth: VideoTruth, rules: DecideSettings = RULES, *, frames: int | None = None) -> Iterator[Sample]:
    """The samples of a video's shots, in order; a shot that the rules refuse gives none. `frames`: see `measured`."""
    made = (sample(truth, number, rules, frames=frames) for number in range(len(truth.shots)))
    return (one for one in made if one is not None)


def sample(
    truth: VideoTruth, number: int, rules: DecideSettings = RULES, *, frames: int | None = None
) -> Sample | None:
    """The sample of one shot, or None where the rules refuse it. `frames`: see `measured`."""
    found = measured(truth, number, frames)
    pair = decide_pair(found, Provenance(stages=(), decided_by="truth"), rules, seed=0).outcome
    if not isinstance(pair, Pair):
        return None
    members = assemble(pair, found.stills, found.segmentation, found.background, found.encoded)
    return Sample(pair, {member.name: member.data for member in members})


def write_samples(out: Store, made: Iterable[Sample], settings: ShardSettings | None = None) -> int:
    """Write a dataset's shards and index; all samples are held in memory. Returns how many there are.

    Raises `ValueError` when a key comes twice.
    """
    kept: Mapping[str, Sample] = {sample.pair.key: sample for sample in made}
    rows: list[IndexRow] = []
    for plan in plan_shards((SampleName.of(sample.pair) for sample in kept.values()), settings or ShardSettings()):
        todo = [(kept[key].pair, [Member(*item) for item in kept[key].members.items()]) for key in plan.keys]
        with out.open_output(f"{SHARDS}/{plan.name}") as stream:
            rows += write_shard(stream, plan.name, todo)
    with out.open_output(INDEX) as stream:
        write_index(stream, rows)
    return len(rows)


def stills_of(truth: VideoTruth, number: int, frames: int | None = None) -> tuple[list[int], Stills]:
    """The frames of the video that a shot's stills show, and the stills. `frames`: see `measured`."""
    _, first, count = window(truth, number, frames)
    at = [first + min(int(share * count), count - 1) for share in STILL_POSITIONS]
    pictures = {n: _jpeg(drawing.frame(truth.script, n)) for n in set(at)}
    shown = tuple(Still(time_s=(n + 0.5) / truth.fps, image=pictures[n]) for n in at)
    return at, Stills(width=truth.width, height=truth.height, stills=shown)


def window(truth: VideoTruth, number: int, frames: int | None = None) -> tuple[Clip, int, int]:
    """A shot's clip, its first frame in the video, and how many it has. `frames`: see `measured`."""
    shot = truth.shots[number]
    first, end = round(shot.start_s * truth.fps), round(shot.end_s * truth.fps)
    count = end - first if frames is None else min(frames, end - first)
    first += (end - first - count) // 2
    source = hashlib.sha256(truth.script.to_json().encode()).hexdigest()[:24]
    return Clip.of(source, first / truth.fps, (first + count) / truth.fps), first, count


def _entities(truth: VideoTruth, number: int) -> dict[str, EntityMask]:
    seen = drawing.truth(truth.script, number)
    assert seen is not None, "a window begins behind its shot's dissolve"
    return {mask.entity: mask for mask in seen.masks}


def _person(index: int, stills: list[dict[str, EntityMask]]) -> Person:
    """The sightings of a person: the stills in which its face is seen."""
    faces = {still: seen[f"s{index}.face"] for still, seen in enumerate(stills) if f"s{index}.face" in seen}
    most = max((masks.area(face.mask) for face in faces.values()), default=1)
    return Person(
        index=index,
        sightings=tuple(
            Sighting(
                still=still,
                face=face.box,
                face_score=1.0,
                landmarks=(),
                body=stills[still][f"s{index}.body"].box,
                body_score=1.0,
                sharpness=1.0,
                visible=masks.area(face.mask) / most,
            )
            for still, face in faces.items()
        ),
    )


def _caption(truth: VideoTruth, number: int) -> Caption:
    told = truth.shots[number].caption

    def mention(phrase: Phrase, person: int) -> Mention:
        return Mention(phrase=phrase, votes=(Vote(person=person, share=1.0),))

    return Caption(
        text=told.text,
        people=tuple(
            PersonMention(
                noun=mention(named.noun, i), attributes=tuple(mention(phrase, i) for phrase in named.attributes)
            )
            for i, named in enumerate(told.people)
        ),
        objects=told.objects,
        background=told.background,
        answers=(),
    )


def empty(place: Place, seed: int, width: int, height: int) -> drawing.Image:
    """A shot's place as its frames show it: drawn larger and scaled down."""
    drawn = draw_place(place, width * SCALE, height * SCALE, seed)
    return np.asarray(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@lru_cache(maxsize=8)  # shots often share one
def _background(place: Place, seed: int, width: int, height: int) -> bytes:
    return png(empty(place, seed, width, height))


def _jpeg(image: drawing.Image) -> bytes:
    stream = io.BytesIO()
    PilImage.fromarray(image).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()
