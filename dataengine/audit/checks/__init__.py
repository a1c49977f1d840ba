"""Automatic checks of a sample: pure functions over its record and its files, each giving a score and a reason."""

from __future__ import annotations

from dataengine.audit.checks import corpus, faces, masks, ownership, pictures, words
from dataengine.audit.checks.basis import Aids, Case, Check, FaceEmbedder, Finding, Scorer, TokensAt
from dataengine.audit.checks.corpus import Seen, apart_from_other_split
from dataengine.audit.checks.ownership import Cell, Matrix, containment, score_matrix
from dataengine.audit.scene import Scene
from dataengine.config import CheckLimits

__all__ = [
    "CHECKS",
    "QUESTIONS",
    "READABLE",
    "Aids",
    "Case",
    "Cell",
    "Check",
    "CheckLimits",
    "FaceEmbedder",
    "Finding",
    "Matrix",
    "Scorer",
    "Seen",
    "TokensAt",
    "apart_from_other_split",
    "check_sample",
    "containment",
    "score_matrix",
]

CHECKS: tuple[Check, ...] = (
    words.phrase_at_span,
    words.phrase_whole,
    words.phrase_has_tokens,
    words.spans_apart,
    words.people_taken,
    words.clothes_taken,
    words.subject_dressed,
    ownership.attribute_inside_owner,
    ownership.owner_margin,
    ownership.owner_agreed,
    ownership.swap_alarm,
    ownership.phrase_fits_picture,
    faces.face_size,
    faces.face_sharp,
    faces.face_visible,
    faces.faces_apart,
    faces.identity_consistent,
    faces.subjects_differ,
    masks.mask_area,
    masks.mask_inside_box,
    masks.mask_on_border,
    masks.mask_holes,
    masks.mask_cuts_reference,
    pictures.references_differ,
    pictures.reference_from_clip,
    pictures.not_copied,
    pictures.background_seen,
    pictures.background_empty,
)
"""The checks of single samples, in the order in which their findings stand."""

READABLE = "readable"
"""The name of what is wrong with a sample whose files are missing or damaged."""

QUESTIONS: dict[str, str] = {
    READABLE: "All files of a sample are there and are what was written.",
    **{check.__name__: (check.__doc__ or "").strip() for check in CHECKS},
    corpus.apart_from_other_split.__name__: (corpus.apart_from_other_split.__doc__ or "").strip(),
}
"""What holds when a check passes, by its name."""


def check_sample(scene: Scene, limits: CheckLimits, aids: Aids | None = None) -> tuple[Finding, ...]:
    """All findings of all checks that apply to the sample, passed ones too: rates need to know how often one ran.

    Raises `UnreadableSample` when a file that a check looks at is missing or damaged.
    """
    case = Case(scene, limits, aids or Aids())
    return tuple(found for check in CHECKS for found in check(case))
