"""The rules on a clip's pictures: what each looks at, which side of its limit is refused, and how it says so.

A rule is on when its limit, the field of its name in `decide.filters`, is not null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter, gt, lt

from dataengine.config import FilterRules
from dataengine.decide.facts import PictureFacts
from dataengine.records import Reason


@dataclass(frozen=True)
class ClipRule:
    name: str
    looks_at: str
    """The field of `PictureFacts`."""
    refuses: Callable[[float, float], bool]
    """Whether what it saw, against the limit, is refused."""
    says: str

    def check(self, pictures: PictureFacts, limit: float) -> Reason | None:
        saw = attrgetter(self.looks_at)(pictures)
        if saw is None:
            return Reason(self.name, f"nothing measured its {self.looks_at}")
        if not self.refuses(saw, limit):
            return None
        return Reason(self.name, self.says.format(saw=saw, limit=limit))


CLIP_RULES: tuple[ClipRule, ...] = (
    ClipRule("clip_min_s", "seconds", lt, "{saw:.2f} s long, at least {limit:g}"),
    ClipRule("clip_max_s", "seconds", gt, "{saw:.2f} s long, at most {limit:g}"),
    ClipRule("clip_min_sharpness", "sharpness", lt, "its least sharp still has {saw:.0f} of {limit:g}"),
    ClipRule("clip_min_brightness", "brightness", lt, "a mean luma of {saw:.3f}, at least {limit:g}"),
    ClipRule("clip_max_brightness", "brightness", gt, "a mean luma of {saw:.3f}, at most {limit:g}"),
    ClipRule("clip_max_clipped", "clipped", gt, "{saw:.3f} of a still is black or white, at most {limit:g}"),
    ClipRule("clip_min_motion", "motion", lt, "it moves by {saw:.3f} frame heights a second, at least {limit:g}"),
    ClipRule("clip_max_motion", "motion", gt, "it moves by {saw:.3f} frame heights a second, at most {limit:g}"),
    ClipRule("clip_max_camera_motion", "camera_motion", gt, "the camera moves by {saw:.3f}, at most {limit:g}"),
    ClipRule("clip_max_overlay", "overlay", gt, "lettering covers {saw:.4f} of it, at most {limit:g}"),
    ClipRule("clip_min_aesthetic", "aesthetic", lt, "it scores {saw:.2f} of {limit:g}"),
    ClipRule("clip_max_nsfw", "nsfw", gt, "a still scores {saw:.3f}, at most {limit:g}"),
)


def check_pictures(pictures: PictureFacts, rules: FilterRules) -> Reason | None:
    """The first rule that refuses a clip by its pictures."""
    for rule in CLIP_RULES:
        limit = getattr(rules, rule.name)
        if limit is not None and (reason := rule.check(pictures, limit)) is not None:
            return reason
    return None
