from __future__ import annotations

from pathlib import Path

import pytest

from dataengine.audit.checking import check_dataset
from dataengine.audit.desk import Desk, NoSuchSample, Rebuilt
from dataengine.audit.events import EventRefused, Undo, Verdict
from dataengine.audit.honeypots import honeypot_key, plant
from dataengine.audit.repairs import ChooseStill, Cut, DeleteEntity, MoveAttribute, Relabel, RepairRefused, Respan
from dataengine.audit.scene import Scene
from dataengine.audit.state import SampleState
from dataengine.audit.views import SampleView
from dataengine.config import AuditSettings
from dataengine.records import Box
from dataengine.store import Store

TWO = 2
"""Position of the sample with two people, where there are no honeypots."""
PLAIN = AuditSettings(honeypots=0)


@pytest.fixture
def desk(dataset: Store) -> Desk:
    return Desk.open(dataset, PLAIN)


def do(desk: Desk, action, position: int = TWO, auditor: str = "mia") -> SampleView:
    return desk.act(position, desk.edition().number, auditor, action)[1]


def accept() -> Verdict:
    return Verdict(verdict="accept")


def test_a_view_has_everything(desk: Desk, scenes: list[Scene]) -> None:
    view = desk.view(TWO, "mia")
    pair = scenes[0].pair
    assert (view.key, view.problem, view.caption) == ("two_people", None, pair.caption)
    assert [entity.id for entity in view.entities] == [reference.entity for reference in pair.references]
    assert all(entity.outline for entity in view.entities if entity.kind in ("attribute", "body"))
    assert [row.attribute for row in view.matrix] == ["s0.a0", "s0.a1", "s1.a0", "s1.a1", "s1.a2"]
    assert all(row.margin is not None and row.margin > 0.5 and not row.alarm for row in view.matrix)
    assert {finding.check for finding in view.findings} >= {"phrase_at_span", "owner_margin"}
    assert all(finding.passed for finding in view.findings)
    for entity in view.entities:
        assert view.caption[slice(*entity.span)] == entity.text
    with pytest.raises(NoSuchSample):
        desk.view(3, "mia")


def test_a_verdict_is_in_the_log_and_in_the_list(desk: Desk, dataset: Store) -> None:
    view = do(desk, Verdict(verdict="reject", reasons=("swap", "bad_crop"), note="hat"))
    assert (view.state.verdict, view.state.reasons, view.state.note) == ("reject", ("swap", "bad_crop"), "hat")
    assert [event.action.verdict for event in desk.log.events()] == ["reject"]
    catalog = desk.edition().catalog
    assert [(d.position, d.auditor, d.verdict) for d in catalog.decided([0, 1, 2])] == [(TWO, "mia", "reject")]
    another = Desk.open(dataset, PLAIN)
    assert another.view(TWO, "mia").state.verdict == "reject", "a server that starts again knows"


def test_what_others_log_is_seen(desk: Desk, dataset: Store) -> None:
    other = Desk.open(dataset, PLAIN)
    do(other, accept(), auditor="noa")
    assert [d.auditor for d in desk.edition().catalog.decided([TWO])] == ["noa"]
    assert desk.auditors() == ["noa"]


def test_others_are_told_of_only_after_an_own_verdict(desk: Desk) -> None:
    do(desk, Verdict(verdict="reject", reasons=("swap",)), auditor="noa")
    assert desk.view(TWO, "mia").state.others == ()
    assert [other.verdict for other in do(desk, accept()).state.others] == ["reject"]


def test_asking_twice_is_asking_once(desk: Desk) -> None:
    number = desk.edition().number
    first, _ = desk.act(TWO, number, "mia", accept())
    again, _ = desk.act(TWO, number, "mia", accept())
    assert first.id == again.id
    undo = Undo(event=first.id)
    undone, _ = desk.act(TWO, number, "mia", undo)
    repeated, view = desk.act(TWO, number, "mia", undo)
    assert undone.id == repeated.id
    assert view.state.verdict is None
    anew, _ = desk.act(TWO, number, "mia", accept())
    assert anew.id > undone.id, "after an undo it is another decision"
    assert len(desk.log.events()) == 3
    with pytest.raises(EventRefused):
        desk.act(TWO, number, "noa", Undo(event=anew.id))


def test_undoing_a_verdict_takes_it_out_of_the_list(desk: Desk) -> None:
    event, _ = desk.act(TWO, desk.edition().number, "mia", accept())
    do(desk, Undo(event=event.id))
    assert desk.edition().catalog.decided([TWO]) == []


def test_moving_an_attribute_runs_the_checks_at_once(desk: Desk) -> None:
    view = do(desk, MoveAttribute(entity="s1.a1", subject=0))
    moved = next(entity for entity in view.entities if entity.id == "s0.a2")
    assert moved.text == "officer's cap"
    assert moved.colour == "s0"
    assert view.state.verdict is None
    failed = {(finding.check, finding.entity) for finding in view.findings if not finding.passed}
    assert ("owner_margin", "s0.a2") in failed
    assert ("attribute_inside_owner", "s0.a2") in failed
    row = next(row for row in view.matrix if row.attribute == "s0.a2")
    assert row.alarm
    assert row.owner == 0
    back = do(desk, MoveAttribute(entity="s0.a2", subject=1))
    assert all(finding.passed for finding in back.findings)


def test_words_change(desk: Desk) -> None:
    view = do(desk, Relabel(entity="s0.a0", text="bright orange space suit"))
    assert "bright orange space suit" in view.caption
    for entity in view.entities:
        assert view.caption[slice(*entity.span)] == entity.text
    start = view.caption.index("suit")
    view = do(desk, Respan(entity="s0.a0", start=start, end=start + 4))
    assert next(entity for entity in view.entities if entity.id == "s0.a0").text == "suit"
    assert [event.action.type for event in view.state.events] == ["relabel", "respan"]


def test_what_would_break_the_sample_is_refused_and_not_logged(desk: Desk) -> None:
    for action in (
        MoveAttribute(entity="s0.a0", subject=7),
        MoveAttribute(entity="s0.a0", subject=1),  # it has three already
        DeleteEntity(entity="o5"),
        Respan(entity="s0.a0", start=0, end=10_000),
        ChooseStill(entity="s0.a0", still=0),
    ):
        with pytest.raises(RepairRefused):
            do(desk, action)
    assert desk.log.events() == ()


def test_a_repair_that_others_build_on_is_not_undone_first(desk: Desk) -> None:
    number = desk.edition().number
    moved, _ = desk.act(TWO, number, "mia", MoveAttribute(entity="s1.a1", subject=0))
    desk.act(TWO, number, "mia", Relabel(entity="s0.a2", text="white cap"))
    with pytest.raises(RepairRefused, match="a later repair builds on it"):
        desk.act(TWO, number, "mia", Undo(event=moved.id))


def test_repairs_are_an_auditors_own(desk: Desk) -> None:
    do(desk, DeleteEntity(entity="s0.a0"))
    assert "s0.a0" not in {entity.id for entity in desk.view(TWO, "mia").entities}
    assert "s0.a0" in {entity.id for entity in desk.view(TWO, "noa").entities}


def test_another_still_is_cut_at_once(dataset: Store, scenes: list[Scene]) -> None:
    box = Box(100, 40, 180, 140)

    def cuts_of(pair):
        return lambda entity, still: (
            Cut(time_s=0.1, box=box, area_share=0.03, score=0.7, mask=None)
            if (entity, still) == ("s0.face", 0)
            else None
        )

    desk = Desk.open(dataset, PLAIN, cuts_of=cuts_of)
    view = do(desk, ChooseStill(entity="s0.face", still=0))
    face = next(entity for entity in view.entities if entity.id == "s0.face")
    assert (face.still, face.cut_anew, face.box) == (0, True, box)
    shown = desk.shown(desk.edition(), TWO, "mia")
    assert shown.scene.image(shown.pair.subjects[0].face).size == (80, 100)


def test_findings_that_were_stored_are_shown_until_something_is_repaired(dataset: Store) -> None:
    check_dataset(dataset, PLAIN)
    desk = Desk.open(dataset, PLAIN)
    stored = desk.view(TWO, "mia")
    assert "reference_from_clip" in {finding.check for finding in stored.findings}, "decodes clips: not run here"
    assert stored.risk is not None
    view = do(desk, MoveAttribute(entity="s1.a1", subject=0))
    checks = {(finding.check, finding.entity, finding.passed) for finding in view.findings}
    assert ("reference_from_clip", "s0.a2", True) in checks, "what does not run here stays, under the new name"
    assert ("owner_margin", "s0.a2", False) in checks


def test_a_dataset_that_was_built_anew_is_read_anew(desk: Desk, dataset: Store) -> None:
    before = desk.edition()
    do(desk, accept())
    dataset.write("index.parquet", dataset.read("index.parquet"))
    after = desk.edition()
    assert after.number != before.number
    assert [d.verdict for d in after.catalog.decided([TWO])] == ["accept"], "events belong to keys"
    with pytest.raises(Rebuilt):
        desk.act(TWO, before.number, "mia", accept())


def test_a_damaged_sample_says_so_and_can_be_rejected(desk: Desk, dataset: Store) -> None:
    row = desk.edition().catalog.index[TWO]
    at = row.member("json")
    shard = Path(dataset.path(f"shards/{row.shard}"))
    data = bytearray(shard.read_bytes())
    data[at.offset] ^= 1
    shard.write_bytes(bytes(data))
    view = desk.view(TWO, "mia")
    assert view.problem is not None
    assert "not those that were indexed" in view.problem
    assert view.entities == ()
    assert do(desk, Verdict(verdict="reject")).state.verdict == "reject"
    assert desk.view(0, "mia").problem is None


# --- Honeypots --------------------------------------------------------------------------------------------------------


@pytest.fixture
def trapped(dataset: Store) -> Desk:
    """A desk on which about half of the samples have a planted copy."""
    return Desk.open(dataset, AuditSettings(honeypots=0.5, seed=5))


def planted_of(desk: Desk) -> dict[str, int]:
    """Position of the planted copy of each sample that has one."""
    catalog = desk.edition().catalog
    places = {position: catalog.place(position) for position in range(len(catalog))}
    return {catalog.index[p.row].key: position for position, p in places.items() if p.planted}


def test_honeypots_stand_among_the_samples_and_look_like_them(trapped: Desk, scenes: list[Scene]) -> None:
    planted = planted_of(trapped)
    assert planted, "the seed plants some"
    for key, position in planted.items():
        view = trapped.view(position, "mia")
        true = next(scene.pair for scene in scenes if scene.pair.key == key)
        fault = plant(true, 5)
        assert fault is not None
        assert view.key == honeypot_key(5, key) == fault.pair.key
        assert [e.id for e in view.entities] == [reference.entity for reference in fault.pair.references]
        assert [e.text for e in view.entities] == [reference.phrase.text for reference in fault.pair.references]
        assert all(row.margin is None or row.margin > 0 for row in view.matrix), "the scores do not give it away"
        assert {f.check for f in view.findings if not f.passed} == {
            f.check for f in trapped.view(_true_position(trapped, key), "mia").findings if not f.passed
        }


def _true_position(desk: Desk, key: str) -> int:
    catalog = desk.edition().catalog
    return next(p for p in range(len(catalog)) if catalog.place(p).key == key)


def test_pictures_of_a_honeypot_are_those_of_the_fault(trapped: Desk, scenes: list[Scene]) -> None:
    for key, position in planted_of(trapped).items():
        shown = trapped.shown(trapped.edition(), position, "mia")
        true = next(scene for scene in scenes if scene.pair.key == key)
        for reference in shown.pair.references:
            stored = shown.references[reference.entity]
            assert shown.scene.members[reference.member] == true.members[stored.member]
        assert trapped.thumb(trapped.edition(), position)


def test_who_has_no_name_sees_no_honeypots(trapped: Desk) -> None:
    from dataengine.audit.catalog import Query

    catalog = trapped.edition().catalog
    assert catalog.page(Query(), 50, 0).total == 3
    assert catalog.page(Query(me="mia"), 50, 0).total == 3 + len(planted_of(trapped))


def test_finding_a_planted_fault_counts_as_recall_and_not_as_an_error(trapped: Desk) -> None:
    for position in planted_of(trapped).values():
        do(trapped, Verdict(verdict="reject", reasons=("swap",)), position)
        do(trapped, accept(), position, "noa")
    numbers = trapped.numbers()
    assert {recall.auditor: recall.share for recall in numbers.recalls} == {"mia": 1.0, "noa": 0.0}
    assert numbers.estimate is None
    assert numbers.judged == 0


def test_numbers_follow_the_log(desk: Desk) -> None:
    assert desk.numbers().judged == 0
    for position in range(3):
        do(desk, accept(), position)
    numbers = desk.numbers()
    assert numbers.estimate is not None
    assert (numbers.estimate.judged, numbers.estimate.wrong) == (3, 0)
    assert SampleState(key="two_people", auditor="x").verdict is None
