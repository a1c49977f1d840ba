"""Shard samples to examples and batches: order, windows, references, bindings, augmentation, refusals."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataengine.lumosx.augment import augment, cover, letterbox
from dataengine.lumosx.codec import DctCodec
from dataengine.lumosx.data import (
    BatchEncoder,
    Example,
    ExampleMaker,
    ExampleStream,
    Refused,
    bind,
)
from dataengine.lumosx.order import Place, Size, Walk, sizes
from dataengine.lumosx.settings import AugmentSettings, DataSettings
from dataengine.lumosx.structure import Kind
from dataengine.lumosx.text import MiniLmEncoder
from dataengine.lumosx.windows import SampleError, generator, names_sides, read_window
from dataengine.shards.reader import PairDataset, Sample
from dataengine.store import Store
from object_store import BUCKET, environment, s3_server

SETTINGS = DataSettings(
    height=48, width=80, frames=5, body_share=0, text_dropout=0, augment=AugmentSettings(enabled=True)
)


@pytest.fixture(scope="module")
def samples(dataset: Path) -> PairDataset:
    return PairDataset(Store.at(dataset), "train")


@pytest.fixture(scope="module")
def encoder() -> BatchEncoder:
    return BatchEncoder(DctCodec(), MiniLmEncoder(64))


class Plain:
    """Epoch after epoch, one size."""

    def __init__(self, count: int, size: Size) -> None:
        self._walk, self._size = Walk(count, (7,)), size

    def place(self, position: int) -> Place:
        return Place(*self._walk.at(position), self._size)


def stream(samples: Any, settings: DataSettings = SETTINGS, **place: int) -> ExampleStream:
    return ExampleStream(samples, Plain(len(samples), sizes(settings)[0]), settings, seed=7, **place)


def take(samples: Any, count: int, settings: DataSettings = SETTINGS, **place: int) -> list[Example]:
    found = list(islice(stream(samples, settings, **place), count))
    assert all(isinstance(example, Example) for example in found), found
    return found  # type: ignore[return-value]


# --- Order ------------------------------------------------------------------------------------------------------------


def test_ranks_share_the_order_without_loss_or_duplication(samples: PairDataset) -> None:
    alone = [example.position for example in take(samples, 12)]
    ranks = [[example.position for example in take(samples, 4, rank=rank, world=3)] for rank in range(3)]
    assert alone == list(range(12))
    assert sorted(position for rank in ranks for position in rank) == alone


def test_a_stream_goes_on_where_another_stopped(samples: PairDataset) -> None:
    whole = take(samples, 9)
    later = take(samples, 4, start=5)
    for expected, found in zip(whole[5:], later, strict=True):
        assert (expected.key, expected.position) == (found.key, found.position)
        assert torch.equal(expected.references, found.references)
        assert torch.equal(expected.video, found.video)


def test_loader_processes_do_not_change_the_stream(samples: PairDataset) -> None:
    expected = take(samples, 7, start=3)
    found = list(islice(stream(samples, start=3).loader(workers=2), 7))
    assert [example.position for example in found] == [example.position for example in expected]
    for left, right in zip(found, expected, strict=True):
        assert isinstance(left, Example)
        assert left.key == right.key
        assert torch.equal(left.references, right.references)


# --- Frames -----------------------------------------------------------------------------------------------------------


def test_window_is_resampled_by_time(make_sample: Any) -> None:
    """A 24 fps clip read at 6 fps: every fourth frame, found by the swaying people."""
    _, members = make_sample(0, ("red",), seconds=2.0)
    mp4 = dict(members)["mp4"]
    every = read_window(mp4, Size(96, 160, 45), 24, 1 / 12).astype(int)
    sparse = read_window(mp4, Size(96, 160, 9), 6, 1 / 3).astype(int)
    # Windows of 44/24 s and 8/6 s, both in the middle of 2 s.
    for k in range(9):
        distances = np.abs(every - sparse[k]).mean(axis=(1, 2, 3))
        assert distances.argmin() == 6 + 4 * k, f"frame {k} is most like frame {distances.argmin()} of the clip"


def test_window_holds_the_last_frame_but_not_longer(make_sample: Any) -> None:
    _, members = make_sample(0, ("red",), seconds=1.0)
    mp4 = dict(members)["mp4"]
    assert read_window(mp4, Size(96, 160, 17), 16, 0.0).shape == (17, 96, 160, 3)
    with pytest.raises(SampleError, match=r"1\.00 s, and 21 frames at 16 fps need 1\.25 s"):
        read_window(mp4, Size(96, 160, 21), 16, 0.0)


def test_random_windows_differ_by_epoch_only(samples: PairDataset) -> None:
    settings = SETTINGS.model_copy(update={"window": "random", "frames": 5})
    maker = ExampleMaker(samples, settings, seed=1)
    first, again, other = (maker.make(0, epoch, 0) for epoch in (0, 0, 1))
    assert isinstance(first, Example)
    assert isinstance(again, Example)
    assert isinstance(other, Example)
    assert torch.equal(first.video, again.video)
    assert not torch.equal(first.video, other.video)


def test_cache_changes_nothing_but_the_work(samples: PairDataset) -> None:
    reads: list[int] = []

    class Counted:
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> Sample:
            reads.append(index)
            return samples[index]

    kept = take(Counted(), 15)
    assert sorted(reads) == [0, 1, 2, 3, 4]
    reads.clear()
    plain = take(Counted(), 15, SETTINGS.model_copy(update={"cache_mb": 0}))
    assert len(reads) == 15
    assert all(torch.equal(a.references, b.references) for a, b in zip(kept, plain, strict=True))


def test_a_sample_is_mirrored_whole(samples: PairDataset) -> None:
    plain = SETTINGS.model_copy(update={"augment": AugmentSettings(enabled=False)})
    as_it_is = ExampleMaker(samples, plain, seed=1).make(0, 0, 0)
    mirrored = ExampleMaker(samples, plain.model_copy(update={"flip_share": 1.0}), seed=1).make(0, 0, 0)
    assert isinstance(as_it_is, Example)
    assert isinstance(mirrored, Example)
    assert torch.equal(mirrored.video, as_it_is.video.flip(2))
    # Letterboxing an odd remainder may shift by a pixel: the pixels are the same, mirrored, in most columns.
    same = (mirrored.references.int() - as_it_is.references.flip(2).int()).abs().float().mean()
    assert same < 3 < (mirrored.video.int() - as_it_is.video.int()).abs().float().mean()


def test_what_names_sides_is_not_mirrored(make_sample: Any) -> None:
    assert names_sides("The man on the LEFT waves.")
    assert names_sides("a right-handed woman")
    assert names_sides("turning counter-clockwise")
    assert not names_sides("She leaves in a bright, leftover coat.")
    pair, members = make_sample(0)
    sided = pair.model_copy(update={"caption": pair.caption + " The man turns left."})
    settings = SETTINGS.model_copy(update={"flip_share": 1.0})
    made = [ExampleMaker([Sample(p, dict(members))], settings, seed=1).make(0, 0, 0) for p in (pair, sided)]
    videos = [example.video for example in made if isinstance(example, Example)]
    assert torch.equal(videos[0], videos[1].flip(2))


def test_sizes_are_those_of_the_place(samples: PairDataset) -> None:
    maker = ExampleMaker(samples, SETTINGS, seed=1)
    example = maker.make(0, 0, 0, Size(64, 48, 9))
    assert isinstance(example, Example)
    assert example.video.shape == (9, 64, 48, 3)
    assert example.references.shape[1:] == (64, 48, 3)


def test_an_object_store_gives_the_same_examples(
    dataset: Path, samples: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(tmp_path / "log") as port:
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        remote = Store.at(f"s3://{BUCKET}/dataset")
        for file in sorted(path for path in dataset.rglob("*") if path.is_file()):
            with remote.open_output(file.relative_to(dataset).as_posix()) as stream:
                stream.write(file.read_bytes())
        found = take(PairDataset(remote, "train"), 6)
    for left, right in zip(found, take(samples, 6), strict=True):
        assert left.key == right.key
        assert torch.equal(left.video, right.video)
        assert torch.equal(left.references, right.references)


# --- References -------------------------------------------------------------------------------------------------------


def test_bindings_are_in_the_models_order(make_sample: Any) -> None:
    pair, _ = make_sample(0, ("red", "green", "blue"))
    bindings, groups = bind(pair, bodies=False)
    assert [b.entity for b in bindings] == ["bg", "s0.face", "s0.a0", "s1.face", "s1.a0", "s2.face", "s2.a0"]
    assert [b.group for b in bindings] == [None, 0, 0, 1, 1, 2, 2]
    assert groups == 3
    assert [b.span.of(pair.caption) for b in bindings[3:5]] == ["a woman", "green top"]
    bindings, groups = bind(pair, bodies=True)
    assert [(b.entity, b.kind, b.group) for b in bindings[1:]] == [(f"s{i}.body", Kind.BODY, None) for i in range(3)]
    assert groups == 0


def test_bodies_are_all_or_none(make_sample: Any) -> None:
    pair, _ = make_sample(0, ("red", "green"))
    first = pair.subjects[0].model_copy(update={"body": None})
    mixed = pair.model_copy(update={"subjects": (first, pair.subjects[1])})
    assert bind(mixed, bodies=True) == bind(mixed, bodies=False)


def test_letterbox_and_cover() -> None:
    tall = np.zeros((40, 10, 3), dtype=np.uint8)
    boxed = letterbox(tall, 48, 80)
    assert boxed.shape == (48, 80, 3)
    assert (boxed[:, :34] == 255).all()
    assert (boxed[:, 34:46] == 0).all()
    assert (boxed[:, 46:] == 255).all()
    ramp = np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (10, 1, 3))
    covered = cover(ramp, 10, 20)
    assert covered.shape == (10, 20, 3)
    assert (covered[0, :, 0] == np.arange(40, 60)).all(), "the middle, not squeezed"


def test_augmentation_keeps_to_its_limits() -> None:
    settings = AugmentSettings(jitter=0, blur_share=0, rotate_share=0, flip_share=0)
    image = np.arange(400 * 300 * 3, dtype=np.uint32).reshape(400, 300, 3).astype(np.uint8)
    shapes = [
        augment(image, settings, np.random.default_rng(seed), background=background).shape
        for background in (False, True)
        for seed in range(40)
    ]
    assert min(max(shape[:2]) for shape in shapes[:40]) >= 112
    areas = np.array([shape[0] * shape[1] / 120_000 for shape in shapes[40:]])
    assert areas.min() >= 0.66, "a background is cropped, never scaled down"
    assert areas.max() <= 1
    assert areas.std() > 0.05


def test_small_references_are_not_enlarged_and_white_stays_white() -> None:
    image = np.full((60, 40, 3), 255, dtype=np.uint8)
    image[20:40, 10:30] = (200, 30, 30)
    for seed in range(20):
        found = augment(image, AugmentSettings(crop_min_area=1), np.random.default_rng(seed), background=False)
        assert found.shape[0] <= 90
        assert (found[0, 0] == 255).all()
        red = (found[..., 0].astype(int) - found[..., 1]) > 100
        assert 250 < red.sum() < 600, "the thing itself is still there"


def test_backgrounds_are_not_mirrored() -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[:, 32:] = 200
    settings = AugmentSettings(rotate_share=0, flip_share=1)
    kept = augment(image, settings, np.random.default_rng(0), background=True)
    turned = augment(image, settings, np.random.default_rng(0), background=False)
    assert kept[:, -1].mean() > kept[:, 0].mean()
    assert turned[:, -1].mean() < turned[:, 0].mean()


def test_augmentation_is_a_function_of_seed_epoch_and_name(samples: PairDataset) -> None:
    maker = ExampleMaker(samples, SETTINGS, seed=1)
    examples = [maker.make(2, epoch, 0) for epoch in (0, 0, 1)] + [ExampleMaker(samples, SETTINGS, 2).make(2, 0, 0)]
    references = [example.references for example in examples if isinstance(example, Example)]
    assert torch.equal(references[0], references[1])
    assert not torch.equal(references[0], references[2])
    assert not torch.equal(references[0], references[3])
    assert generator(1, 0, "a").random() != generator(1, 0, "b").random()


def test_dropout_shares(samples: PairDataset) -> None:
    settings = SETTINGS.model_copy(update={"text_dropout": 0.3, "reference_dropout": 0.2, "body_share": 0.5})
    examples = take(samples, 300, settings)
    assert 0.2 < np.mean([example.text_dropped for example in examples]) < 0.4
    assert 0.12 < np.mean([not example.bindings for example in examples]) < 0.28
    bodies = [example.groups == 0 for example in examples if example.bindings]
    assert 0.4 < np.mean(bodies) < 0.6


# --- Batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_ragged(samples: PairDataset, encoder: BatchEncoder) -> None:
    examples = take(samples, 5)
    batch, refused = encoder.encode(examples)
    assert not refused
    assert len(batch) == 5
    assert {len(example.bindings) for example in examples} == {3, 5, 7}
    for example, latent, references, context, structure in zip(
        examples, batch.latents, batch.references, batch.contexts, batch.structures, strict=True
    ):
        count = len(example.bindings)
        assert latent.shape == (16, 2, 6, 10)
        assert references is not None
        assert references.shape == (16, count, 6, 10)
        assert context.shape[1] == 384
        assert (structure.frames, structure.grid, len(structure.references)) == (2, (3, 5), count)
        assert structure.group_count == example.groups
        assert all(reference.text_positions for reference in structure.references)


def test_phrases_of_subjects_are_different_tokens(samples: PairDataset, encoder: BatchEncoder) -> None:
    for structure in encoder.encode(take(samples, 5))[0].structures:
        seen = [set(reference.text_positions) for reference in structure.references]
        assert sum(map(len, seen)) == len(set().union(*seen))


def test_dropped_text_keeps_the_phrase_positions(samples: PairDataset, encoder: BatchEncoder) -> None:
    settings = SETTINGS.model_copy(update={"text_dropout": 0.999})
    dropped, _ = encoder.encode(take(samples, 1, settings))
    kept, _ = encoder.encode(take(samples, 1))
    assert dropped.contexts[0].shape == (2, 384)
    assert kept.contexts[0].shape[0] > 10
    assert dropped.structures == kept.structures


def test_an_example_without_references(samples: PairDataset, encoder: BatchEncoder) -> None:
    settings = SETTINGS.model_copy(update={"reference_dropout": 1.0})
    (drawn,) = take(samples, 1, settings)
    plain = ExampleMaker(samples, settings, seed=0).plain(0)
    batch, _ = encoder.encode([drawn, plain])
    assert batch.references == [None, None]
    assert [structure.group_count for structure in batch.structures] == [0, 0]
    often = SETTINGS.model_copy(update={"reference_dropout": 0.999})
    assert len(ExampleMaker(samples, often, seed=0).plain(0).references), "validation leaves nothing to chance"


def test_bad_samples_are_refused_with_their_reason(make_sample: Any, encoder: BatchEncoder) -> None:
    good = Sample(make_sample(0)[0], dict(make_sample(0)[1]))
    no_clip = Sample(good.pair, {**good.members, "mp4": b"not a video"})
    no_face = Sample(good.pair, {name: data for name, data in good.members.items() if name != "s0.face.png"})
    bad_face = Sample(good.pair, {**good.members, "s0.face.png": b"\x89PNG\r\n\x1a\nbroken"})
    short = Sample(make_sample(1, seconds=0.5)[0], dict(make_sample(1, seconds=0.5)[1]))
    maker = ExampleMaker([no_clip, no_face, bad_face, short, good], DataSettings(), seed=0)
    found = [maker.make(index, 0, index) for index in range(5)]
    reasons = [example.reason for example in found if isinstance(example, Refused)]
    assert len(reasons) == 4
    assert "no member s0.face.png" in reasons[1]
    assert "s0.face.png: not a readable image" in reasons[2]
    assert "need 1.00 s" in reasons[3]
    narrow = BatchEncoder(DctCodec(), MiniLmEncoder(8))
    batch, refused = narrow.encode(found)
    assert len(batch) == 0
    assert "past the 8 tokens" in refused[-1].reason
    assert [refusal.position for refusal in refused] == [0, 1, 2, 3, 4]
