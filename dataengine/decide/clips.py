"""From shot-change scores to clips that lie inside one shot."""

from __future__ import annotations

import math

from dataengine.config import ClipRules
from dataengine.records import Clip, FrameScore, ShotScores

_SAME_TRANSITION = 1.5
"""Frames up to this many frame lengths apart are neighbours: presentation times jitter with variable frame rates."""


def plan_clips(source_id: str, shots: ShotScores, rules: ClipRules) -> tuple[Clip, ...]:
    """The clips of a source in order of time; none when every shot is too short.

    A shot is what lies between two transitions. `margin_s` keeps away from its cuts (the source's own ends are no
    cuts), shots under `min_s` are left out and shots over `max_s` become equal parts.
    Raises `ValueError` when the threshold is under the floor that the scores were stored with, or a source that is to
    be one clip is longer than `max_s`.
    """
    if rules.whole:
        return _whole(source_id, shots.duration_s, rules)
    clips: list[Clip] = []
    start, after_cut = 0.0, 0.0
    for cut in (*_transitions(shots, rules.threshold), None):
        end, before_cut = (shots.duration_s, 0.0) if cut is None else (cut[0].time_s, rules.margin_s)
        for part in _parts(start + after_cut, end - before_cut, rules):
            clips.append(Clip.of(source_id, *part))
        if cut is not None:
            start, after_cut = cut[1].time_s + shots.frame_s, rules.margin_s
    return tuple(clips)


def _whole(source_id: str, duration_s: float, rules: ClipRules) -> tuple[Clip, ...]:
    if duration_s > rules.max_s:
        raise ValueError(
            f"{duration_s:.1f} s is longer than decide.clips.max_s={rules.max_s:g}: raise that, or let it be cut into "
            "shots (decide.clips.whole=false)"
        )
    return (Clip.of(source_id, 0.0, duration_s),) if duration_s >= rules.min_s else ()


def shot_boundaries(shots: ShotScores, threshold: float) -> tuple[float, ...]:
    """When the picture changes shot, in seconds: the new shot's first frame, or a gradual transition's middle.

    Raises `ValueError` as `plan_clips` does.
    """
    return tuple((a.time_s + b.time_s) / 2 + shots.frame_s for a, b in _transitions(shots, threshold))


def _transitions(shots: ShotScores, threshold: float) -> list[tuple[FrameScore, FrameScore]]:
    """First and last frame of each run of neighbouring frames that score at least `threshold`."""
    if threshold < shots.floor:
        raise ValueError(
            f"threshold {threshold} is under {shots.floor}, the floor that shot scores were stored with: "
            "lower stages.shots.floor and measure again, or raise decide.clips.threshold"
        )
    runs: list[tuple[FrameScore, FrameScore]] = []
    for frame in shots.scores:
        if frame.score < threshold:
            continue
        if runs and frame.time_s - runs[-1][1].time_s <= _SAME_TRANSITION * shots.frame_s:
            runs[-1] = (runs[-1][0], frame)
        else:
            runs.append((frame, frame))
    return runs


def _parts(start_s: float, end_s: float, rules: ClipRules) -> list[tuple[float, float]]:
    """A shot's span as equal parts between `min_s` and `max_s`; what fits of it where no equal parts do."""
    length = end_s - start_s
    if length < rules.min_s:
        return []
    count = max(1, math.ceil(length / rules.max_s - 1e-9))
    part = length / count
    if part < rules.min_s:
        count, part = count - 1, rules.max_s
    return [(start_s + i * part, start_s + (i + 1) * part) for i in range(count)]
