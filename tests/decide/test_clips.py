"""Clips: inside one shot, of the right length, and nothing usable left out."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.config import ClipRules
from dataengine.decide.clips import plan_clips, shot_boundaries
from dataengine.records import Box, FrameScore, ShotScores

FPS = 25


def scores(frames: dict[int, float], total: int) -> ShotScores:
    return ShotScores(
        detector="drawn",
        floor=0.02,
        frame_s=1 / FPS,
        duration_s=total / FPS,
        scores=tuple(FrameScore(frame / FPS, score) for frame, score in sorted(frames.items())),
        content=Box(0, 0, 64, 64),
    )


def spans(shots: ShotScores, **rules: float) -> list[tuple[float, float]]:
    clips = plan_clips("source", shots, ClipRules(**{"margin_s": 0, **rules}))
    return [(round(c.start_s, 6), round(c.end_s, 6)) for c in clips]


def test_a_hard_cut_belongs_to_neither_clip():
    shots = scores({49: 0.9}, 100)
    assert spans(shots) == [(0.0, 1.96), (2.0, 4.0)]
    assert spans(shots, margin_s=0.1) == [(0.0, 1.86), (2.1, 4.0)], "the margin is kept from cuts, not from the ends"


def test_neighbouring_frames_are_one_transition():
    dissolve = scores(dict.fromkeys(range(50, 60), 0.5), 200)
    assert spans(dissolve) == [(0.0, 2.0), (2.4, 8.0)]
    assert shot_boundaries(dissolve, 0.3) == pytest.approx((54.5 / FPS + 1 / FPS,))
    two = scores({50: 0.5, 52: 0.5}, 200)
    assert len(shot_boundaries(two, 0.3)) == 2, "a calm frame between them: two cuts"


def test_scores_under_the_threshold_cut_nothing():
    shots = scores({50: 0.29, 100: 0.3}, 200)
    assert spans(shots) == [(0.0, 4.0), (4.04, 8.0)]
    assert shot_boundaries(shots, 0.3) == pytest.approx((101 / FPS,)), "a cut is at the new shot's first frame"


def test_long_shots_become_equal_parts():
    assert spans(scores({}, 25 * 24), max_s=10) == [(0, 8), (8, 16), (16, 24)]
    assert spans(scores({}, 25 * 20), max_s=10) == [(0, 10), (10, 20)]
    assert spans(scores({}, 25 * 12), min_s=8, max_s=10) == [(0, 10)], "two parts of 6 s would be too short"


def test_short_shots_are_left_out():
    assert spans(scores({30: 1.0, 40: 1.0}, 100)) == [(0.0, 1.2), (1.64, 4.0)]
    assert spans(scores({}, 20)) == []


def test_clip_ids_are_content():
    shots, rules = scores({49: 0.9}, 100), ClipRules()
    ids = [c.clip_id for c in plan_clips("a", shots, rules)]
    assert ids == [c.clip_id for c in plan_clips("a", shots, rules)]
    assert not set(ids) & {c.clip_id for c in plan_clips("b", shots, rules)}


def test_a_threshold_under_the_stored_floor_is_refused():
    with pytest.raises(ValueError, match=r"stages\.shots\.floor"):
        plan_clips("source", scores({}, 100), ClipRules(threshold=0.01))


@given(
    total=st.integers(1, 2000),
    marks=st.dictionaries(st.integers(0, 1999), st.floats(0.02, 1), max_size=30),
    min_s=st.floats(0.1, 5),
    longer=st.floats(0, 10),
    margin_s=st.floats(0, 0.3),
)
def test_clips_of_any_scores(total, marks, min_s, longer, margin_s):
    rules = ClipRules(min_s=min_s, max_s=min_s + longer, margin_s=margin_s)
    shots = scores({f: s for f, s in marks.items() if f < total}, total)
    clips = plan_clips("source", shots, rules)
    slack = 2e-6
    assert list(clips) == sorted(clips, key=lambda c: c.start_s)
    for clip in clips:
        assert -slack <= clip.start_s < clip.end_s <= shots.duration_s + slack
        assert rules.min_s - slack <= clip.seconds <= rules.max_s + slack
        for frame in shots.scores:
            if frame.score >= rules.threshold:  # no clip touches a transition's frame, nor its margin
                before = clip.end_s <= frame.time_s - margin_s + slack
                after = clip.start_s >= frame.time_s + shots.frame_s + margin_s - slack
                assert before or after
    for before, after in pairwise(clips):
        assert before.end_s <= after.start_s + slack
    # Whatever lies between clips is a transition with its margins, or too short to be a clip itself.
    cuts = [f for f in shots.scores if f.score >= rules.threshold]
    edges = [0.0, *(t for c in clips for t in (c.start_s, c.end_s)), shots.duration_s]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        inside = [f.time_s for f in cuts if start - margin_s - slack <= f.time_s <= end + margin_s + slack]
        if not inside:
            assert end - start < rules.min_s + slack or rules.max_s < 2 * rules.min_s


def test_whole_sources_are_one_clip_and_too_long_ones_say_so():
    cut = scores({20: 0.9}, 80)
    whole = ClipRules(whole=True, min_s=1, max_s=10)
    (clip,) = plan_clips("source", cut, whole)
    assert (clip.start_s, clip.end_s) == (0.0, cut.duration_s)
    assert plan_clips("source", cut, ClipRules(whole=True, min_s=100, max_s=200)) == ()
    with pytest.raises(ValueError, match=r"longer than decide\.clips\.max_s=2"):
        plan_clips("source", cut, ClipRules(whole=True, min_s=1, max_s=2))
