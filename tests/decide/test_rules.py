"""Rules on pictures: each refuses on its side of the limit, says what it saw, and is off while it is null."""

import pytest

from dataengine.config import FilterRules
from dataengine.decide.facts import PictureFacts
from dataengine.decide.rules import CLIP_RULES, check_pictures

SEEN = PictureFacts(
    seconds=3.0,
    people=(),
    sharpness=100.0,
    brightness=0.5,
    clipped=0.1,
    motion=0.2,
    camera_motion=0.1,
    overlay=0.02,
    aesthetic=5.0,
    nsfw=0.3,
    hashes=("0" * 16,) * 3,
)


def test_without_limits_nothing_is_refused():
    assert check_pictures(PictureFacts(seconds=0.0, people=()), FilterRules()) is None


@pytest.mark.parametrize("rule", CLIP_RULES, ids=lambda rule: rule.name)
def test_a_rule_refuses_one_side_of_its_limit(rule):
    saw = getattr(SEEN, rule.looks_at)
    up = 1 if "_min_" in rule.name else -1

    def refused(limit: float) -> str | None:
        reason = check_pictures(SEEN, FilterRules(**{rule.name: limit}))
        assert reason is None or reason.rule == rule.name
        return reason and reason.detail

    assert refused(saw) is None, "the limit is included"
    assert refused(saw - up * 0.01) is None
    detail = refused(saw + up * 0.01)
    assert detail is not None and str(saw).rstrip("0").rstrip(".") in detail


def test_every_rule_on_pictures_is_a_setting_and_every_such_setting_is_a_rule():
    settings = {name for name in FilterRules.model_fields if name.startswith("clip_")}
    assert {rule.name for rule in CLIP_RULES} == settings - {"clip_duplicate_bits"}


def test_what_nobody_measured_is_not_known_to_be_good():
    reason = check_pictures(PictureFacts(seconds=3.0, people=()), FilterRules(clip_max_nsfw=0.9))
    assert reason is not None
    assert reason == ("clip_max_nsfw", "nothing measured its nsfw")
