"""The layout as the released scripts read it: a phrase is a file's name, and what cannot be one is counted."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from dataengine.records import Pair, Phrase, Span
from dataengine.shards.exporters.contract import ExportRefused
from dataengine.shards.exporters.lumosx import SAMPLES, LumosXExport
from dataengine.shards.index import Index
from dataengine.shards.losses import merged
from dataengine.shards.reader import PairDataset
from dataengine.store import Store


def released(folder: Path) -> dict:
    """A sample as `obtain_mask_dict` of the released script reads it: names of files, cut where it cuts them."""
    found: dict = {"caption": (folder / "caption.txt").read_text("utf-8"), "humans": []}
    if (folder / "background").is_dir():
        found["background"] = next(iter((folder / "background").iterdir())).name.split(".")[0]
    for subject in sorted((folder / "subjects").iterdir()):
        human = {}
        for file in subject.iterdir():
            if "fullfullbody" in file.name:
                continue
            if "face" in file.name:
                human["face"] = ".".join("_".join(file.name.split("_")[1:]).split(".")[:-1])
            else:
                human.setdefault("worn", set()).add(".".join(file.name.split(".")[:-1]))
        found["humans"].append(human)
    found["objects"] = {file.name.split(".")[0] for file in (folder / "objects").glob("*")}
    return found


def exported(source: Store, target: Path) -> dict[tuple[str, str], tuple[int, str]]:
    shards = sorted(set(Index.read(source).table["shard"].to_pylist()))
    return merged(LumosXExport().shard(source, shard, Store.at(target)).losses for shard in shards).found


def test_the_released_script_finds_every_phrase(dataset: Store, tmp_path: Path) -> None:
    losses = exported(dataset, tmp_path)
    samples = list(PairDataset(dataset))
    assert {p.name for p in (tmp_path / SAMPLES).iterdir()} == {
        f"person{len(s.pair.subjects)}_{s.pair.key}" for s in samples
    }
    for sample in samples:
        pair = sample.pair
        folder = tmp_path / SAMPLES / f"person{len(pair.subjects)}_{pair.key}"
        found = released(folder)
        assert found["caption"] == pair.caption
        assert found["humans"] == [
            {"face": s.noun.text, "worn": {a.phrase.text for a in s.attributes}} for s in pair.subjects
        ]
        assert found["objects"] == {"red ball"} and found["background"] == "green wall"
        assert (folder / "clip.mp4").read_bytes() == sample.members["mp4"]
        face = (folder / f"subjects/0/face_{pair.subjects[0].noun.text}.png").read_bytes()
        assert face == sample.members["s0.face.png"]
        with Image.open(BytesIO(face)) as image:
            assert image.mode == "RGB"
    assert losses["mask", "the layout has no masks"][0] == sum(
        r.mask_member is not None for s in samples for r in s.pair.references
    )
    assert losses["split", "the layout has one"][0] == sum(s.pair.split == "val" for s in samples)


def renamed(pair: Pair, old: str, new: str) -> Pair:
    """The pair with other words, everywhere."""
    caption = pair.caption.replace(old, new)

    def moved(reference):
        if reference is None:
            return None
        text = reference.phrase.text.replace(old, new)
        start = caption.index(text) if reference.phrase.text != "man" else reference.phrase.span.start
        return reference.model_copy(update={"phrase": Phrase(text=text, span=Span(start, start + len(text)))})

    subjects = tuple(
        s.model_copy(
            update={
                "noun": (face := moved(s.face)).phrase,
                "face": face,
                "attributes": tuple(map(moved, s.attributes)),
                "body": moved(s.body),
            }
        )
        for s in pair.subjects
    )
    changed = {"caption": caption, "subjects": subjects, "background": moved(pair.background)}
    return Pair.model_validate(
        pair.model_copy(update=changed | {"objects": tuple(map(moved, pair.objects))}).model_dump()
    )


@pytest.mark.parametrize(
    ("old", "new", "what", "why"),
    [
        ("orange top", "orange/red top", "attribute", "no file name"),
        ("orange top", "o" * 300, "attribute", "longer than a file name"),
        ("orange top", "top with a face", "attribute", "takes such a file for the face"),
        ("red ball", "no. 1 ball", "object", "a dot"),
        ("green wall", "wall no.", "background", "a dot"),
    ],
)
def test_what_no_file_can_be_called_is_left_out_and_counted(old, new, what, why, made_samples, make_dataset, tmp_path):
    made = next(s for s in made_samples if len(s.pair.subjects) == 1)
    pair = renamed(made.pair, old, new)
    members = tuple(type(m)(m.name, pair.to_json().encode()) if m.name == "json" else m for m in made.members)
    losses = exported(make_dataset([type(made)(pair, members)]), tmp_path / "lumosx")
    assert [count for (kind, reason), (count, _) in losses.items() if kind == what and why in reason] == [1]
    names = {p.stem for p in (tmp_path / "lumosx").rglob("*.png")}
    assert new not in names and len(names) == len(pair.references) - 1


def test_what_the_released_script_reads_otherwise_is_counted(made_samples, make_dataset, tmp_path) -> None:
    made = next(s for s in made_samples if len(s.pair.subjects) == 1)
    caption = made.pair.caption + " The woman waits; the red ball rolls."
    pair = made.pair.model_copy(update={"caption": caption})
    members = tuple(type(m)(m.name, pair.to_json().encode()) if m.name == "json" else m for m in made.members)
    losses = exported(make_dataset([type(made)(pair, members)]), tmp_path / "lumosx")
    told = {(what, why.split()[0]) for what, why in losses}
    assert losses["span", "the phrase stands several times in the caption: its place cannot be told"][0] == 2
    assert ("token mask", "the") in told and ("caption", "the") in told


def test_object_stores_are_no_place_for_folders(dataset: Store) -> None:
    with pytest.raises(ExportRefused, match="local folder"):
        LumosXExport().shard(dataset, "train-1s-00000.tar", Store("s3://bucket/x"))
