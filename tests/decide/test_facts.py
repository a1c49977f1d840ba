"""Facts: nothing that a decision needs is lost on the way through their stored form."""

from dataclasses import replace

import msgspec
import pytest

from dataengine.config import DecideSettings
from dataengine.decide.facts import Facts, PictureFacts, facts_of, pictures_of
from dataengine.decide.pairs import Case, decide, decide_pair
from dataengine.records import Phrase, Provenance

PROVENANCE = Provenance(stages=(), decided_by="test")


@pytest.mark.parametrize("people", [1, 2, 3])
def test_stored_facts_decide_as_measurements_do(measured_clip, people):
    measured = measured_clip(0, people=people)
    pictures = msgspec.msgpack.encode(pictures_of(measured.clip, measured.people, measured.quality))
    facts = msgspec.msgpack.encode(facts_of(measured))
    case = Case(
        measured.clip,
        measured.source_names,
        msgspec.msgpack.decode(pictures, type=PictureFacts),
        msgspec.msgpack.decode(facts, type=Facts),
    )
    rules = DecideSettings()
    assert decide(case, PROVENANCE, rules, 0) == decide_pair(measured, PROVENANCE, rules, 0)
    assert len(facts) < 3000


def test_facts_hold_no_rule(measured_clip):
    """What a rule would refuse is in the facts all the same."""
    measured = measured_clip(0)
    wrong = measured.caption.model_copy(update={"background": Phrase(text="purple sea", span=None)})
    facts = facts_of(replace(measured, caption=wrong))
    assert facts.background is not None and facts.background.span is None
    assert facts.background.untied is not None and facts.background.untied.rule == "span_absent"
    assert {len(found) for found in facts.masks.values()} == {3}
    mask = facts.masks["s0.a0"][0]
    assert set(mask.inside) == {0, 1} and mask.inside[0] == pytest.approx(1) and mask.inside[1] == 0
