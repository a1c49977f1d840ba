"""Events travel without a change, and whatever comes in is checked."""

from __future__ import annotations

import io
import json
from datetime import UTC
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from audit_samples import sample, write_dataset
from dataengine.audit.events import Event, EventLog, EventRefused, Undo, Verdict
from dataengine.audit.exchange import Said, events_table, from_coco, from_parquet, to_coco, to_parquet
from dataengine.audit.repairs import DeleteEntity, MoveAttribute, Relabel, Respan
from dataengine.audit.state import fold
from dataengine.shards.index import Index
from dataengine.store import Store

REJECT = Verdict(verdict="reject", reasons=("swap", "bad_crop"), note="see\n中文 <b>")


@st.composite
def events(draw: st.DrawFn) -> tuple[Event, ...]:
    times = st.datetimes(timezones=st.just(UTC))
    actions = st.sampled_from(
        [REJECT, MoveAttribute(entity="s0.a1", subject=2), Respan(entity="s1", start=3, end=9), Undo(event=1),
         Relabel(entity="o0", text="grüner Hut"), DeleteEntity(entity="bg")]
    )  # fmt: skip
    numbers = sorted(draw(st.sets(st.integers(1, 10**9), max_size=8)))
    return tuple(
        Event(id=n, at=draw(times), auditor=draw(st.sampled_from(["Zoë", "a b"])), key="k", action=draw(actions))
        for n in numbers
    )


@given(events())
def test_parquet_comes_back_exactly(done: tuple[Event, ...]) -> None:
    assert from_parquet(to_parquet(done)) == done


def table(**changes: list) -> bytes:
    """A file of two good events, with some columns changed."""
    done = [Event(id=i, at="2026-11-27T00:00:00Z", auditor="a", key="k", action=REJECT) for i in (1, 2)]
    values = events_table(done).to_pydict() | changes
    stream = io.BytesIO()
    pq.write_table(pa.table({name: value for name, value in values.items() if value is not None}), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"auditor": ["a", "b\x00"]}, "row 1.*U\\+0000"),
        ({"auditor": ["a", None]}, "non-nullable"),
        ({"key": ["k", "../../etc"]}, "row 1.*pattern"),
        ({"id": [2, 1]}, "row 1: event 1 comes behind event 2"),
        ({"id": [0, 1]}, "row 0"),
        ({"action": ["{}", "{}"]}, "row 0"),
        ({"action": ['{"type": "verdict", "verdict": "accept", "shell": "rm"}'] * 2}, "row 0"),
        ({"type": ["undo", "verdict"]}, "row 0: its type says 'undo'"),
        ({"id": ["one", "two"]}, "no table of events"),
        ({"key": None}, "columns key are missing"),
    ],
)
def test_hostile_tables_are_refused(changes: dict[str, list], says: str) -> None:
    assert len(from_parquet(table())) == 2
    with pytest.raises(EventRefused, match=says):
        from_parquet(table(**changes))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"{}", b"PAR1" + bytes(100) + b"PAR1"])
def test_no_table_at_all(data: bytes) -> None:
    with pytest.raises(EventRefused, match="no table of events"):
        from_parquet(data)


# --- Into a log -------------------------------------------------------------------------------------------------------


def test_an_empty_log_takes_events_as_they_are_and_others_behind_their_own(tmp_path: Path) -> None:
    with EventLog(tmp_path / "one.sqlite") as one, EventLog(tmp_path / "two.sqlite") as two:
        for action in (REJECT, Undo(event=1), Verdict(verdict="accept")):
            one.append("a", "x", action)
        assert two.merge(one.events()) == 3
        assert two.events() == one.events()
        own = one.append("b", "y", REJECT)
        two.append("c", "z", REJECT)
        later = one.append("b", "y", Undo(event=own.id))
        assert two.merge(one.events()) == 2  # what is there already is not repeated
        assert two.merge(one.events()) == 0
        got = two.events(auditor="b")
        assert [(e.id, e.action.type) for e in got] == [(5, "verdict"), (6, "undo")]
        assert got[1].action == Undo(event=5)
        assert got[1].at == later.at
        assert fold(two.events())["y", "b"].verdict is None


def test_an_import_is_all_or_nothing(tmp_path: Path) -> None:
    good = Event(id=1, at="2026-11-27T00:00:00Z", auditor="a", key="k", action=REJECT)
    strange = good.model_copy(update={"id": 2, "action": Undo(event=7)})
    with EventLog(tmp_path / "log.sqlite") as log:
        with pytest.raises(EventRefused, match="undoes 7"):
            log.merge([good, strange])
        assert log.events() == ()
        assert log.append("a", "k", REJECT).id == 1


# --- COCO -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.at(tmp_path_factory.mktemp("coco"))
    write_dataset(store, [sample(n, 2, clip=True) for n in range(3)])
    with EventLog.of(store) as log:
        log.append("Zoë", "sample-00000", Relabel(entity="s0.a0", text="tie"))
        log.append("Zoë", "sample-00000", REJECT)
        log.append("b", "sample-00000", Verdict(verdict="accept"))
        log.append("b", "sample-00001", Verdict(verdict="unsure"))
    return store


def coco(out: Store) -> str:
    with EventLog.of(out) as log:
        return "".join(to_coco(out, fold(log.events())))


def test_pycocotools_reads_boxes_masks_and_verdicts(out: Store, tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    file.write_text(coco(out), encoding="utf-8")
    read = COCO(str(file))
    assert {image["attributes"]["key"] for image in read.dataset["images"]} == {"sample-00000", "sample-00001"}
    (image,) = [i for i in read.dataset["images"] if i["attributes"]["key"] == "sample-00000"]
    said = image["attributes"]["verdicts"]
    assert (said["Zoë"]["verdict"], said["Zoë"]["reasons"], said["b"]["verdict"]) == (
        "reject",
        ["swap", "bad_crop"],
        "accept",
    )
    scene = sample(0, 2)
    found = {a["attributes"]["entity"]: a for a in read.loadAnns(read.getAnnIds(imgIds=[image["id"]]))}
    assert found.keys() == {r.entity for r in scene.pair.references}
    for reference in scene.pair.references:
        annotation = found[reference.entity]
        assert annotation["bbox"] == [reference.box.x0, reference.box.y0, reference.box.width, reference.box.height]
        assert read.loadCats(annotation["category_id"])[0]["name"] == reference.kind
        if reference.mask_member is not None:
            assert np.array_equal(read.annToMask(annotation).astype(bool), scene.masks[reference.entity])
    assert found["s1.a0"]["attributes"]["owner"] == "s1"
    assert found["s1.a0"]["attributes"]["phrase"] == scene.pair.subjects[1].attributes[0].phrase.text


def test_verdicts_come_back_from_coco(out: Store) -> None:
    assert from_coco(coco(out).encode()) == (
        Said("Zoë", "sample-00000", Relabel(entity="s0.a0", text="tie")),
        Said("Zoë", "sample-00000", REJECT),
        Said("b", "sample-00000", Verdict(verdict="accept")),
        Said("b", "sample-00001", Verdict(verdict="unsure")),
    )


def test_a_sample_that_cannot_be_read_is_there_and_says_so(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    write_dataset(store, [sample(0, 2, clip=True)])
    shard = Index.read(store)[0].shard
    store.write(f"shards/{shard}", bytes(len(store.read(f"shards/{shard}"))))
    content = json.loads("".join(to_coco(store, {}, ["sample-00000"])))
    assert "sample-00000.json" in content["images"][0]["attributes"]["problem"]
    assert content["annotations"] == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.clear(), "no COCO file"),
        (lambda c: c.update(images={}), "no list"),
        (lambda c: c["images"][0]["attributes"]["verdicts"].update({"a\x00": {"verdict": "accept"}}), "image 0.*0000"),
        (lambda c: c["images"][0]["attributes"].update(key="../x"), "image 0.*pattern"),
        (lambda c: c["images"][0]["attributes"]["verdicts"]["b"].update(verdict="sure"), "image 0.*accept"),
        (
            lambda c: c["images"][0]["attributes"]["verdicts"]["b"].update(repairs=[{"type": "undo", "event": 1}]),
            "no repairs",
        ),
        (lambda c: c["images"][0]["attributes"]["verdicts"]["b"].update(repairs=7), "image 0"),
        (lambda c: c["images"][0].update(attributes=[1]), "image 0"),
        (lambda c: c["images"].append(3), "AttributeError"),
    ],
)
def test_hostile_coco_is_refused(out: Store, change, says: str) -> None:
    content = json.loads(coco(out))
    change(content)
    with pytest.raises(EventRefused, match=says):
        from_coco(json.dumps(content).encode())


def said(content: dict) -> dict:
    return content["images"][0]["attributes"]["verdicts"]["b"]


def test_hostile_json_is_refused() -> None:
    for data in (b"", b"[" * 100_000, b"\xff\xfe", b'{"images": NaN}'):
        with pytest.raises(EventRefused):
            from_coco(data)
