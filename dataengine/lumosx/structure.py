"""What one sample's token sequence is made of: video frames, ordered references, groups, phrases. Host-side only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StructureError(ValueError):
    """A sample's structure contradicts itself; the message names the reference and what to change."""


class Kind(StrEnum):
    """What a reference image shows. `BODY` is the whole-body mask that 30 % of training samples use ungrouped."""

    BACKGROUND = "background"
    OBJECT = "object"
    FACE = "face"
    ATTRIBUTE = "attribute"
    BODY = "body"


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference image: one latent frame that stays clean.

    Attributes:
        kind: what it shows; a label, the mathematics below depends on `group` alone.
        text_positions: token positions of its phrase in the caption, ascending; empty if it is tied to no words.
        group: index of its subject group, or None for a reference that stands alone (background, object, body).
    """

    kind: Kind
    text_positions: tuple[int, ...] = ()
    group: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", Kind(self.kind))
        object.__setattr__(self, "text_positions", tuple(sorted(set(self.text_positions))))
        if self.text_positions and self.text_positions[0] < 0:
            raise StructureError(f"{self.kind} reference has a negative text position {self.text_positions[0]}")
        if self.kind in (Kind.BACKGROUND, Kind.OBJECT) and self.group is not None:
            raise StructureError(f"{self.kind} reference is in subject group {self.group}; it must stand alone")
        if self.kind is Kind.ATTRIBUTE and self.group is None:
            raise StructureError("attribute reference has no subject group; an attribute belongs to a subject")


@dataclass(frozen=True, slots=True)
class Segment:
    """References `start … start+count-1` that attend to each other only and share one RoPE time index.

    A whole subject group is one segment; a reference that stands alone is a segment of one.
    """

    start: int
    count: int
    group: int | None


@dataclass(frozen=True, slots=True)
class SampleStructure:
    """The token structure of one sample. All frames, video and reference, lie on the same token grid.

    The sequence is frame-major: video frames 0…T-1, then one frame a reference in the order of `references`
    (background, objects, then subject groups, inside a group the face first).

    Attributes:
        frames: T, number of latent video frames, at least 1.
        grid: (h, w), tokens per column and per row of a frame.
        references: in token order; the members of a group are adjacent and groups ascend.
        group_count: G, subject groups counted *including those without a member*: an absent subject still
            dilutes the other groups' penalty in MCAM.

    Raises:
        StructureError: at construction, on any contradiction.
    """

    frames: int
    grid: tuple[int, int]
    references: tuple[Reference, ...] = ()
    group_count: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))
        object.__setattr__(self, "references", tuple(self.references))
        if self.frames < 1:
            raise StructureError(f"a sample needs at least one video frame, got {self.frames}")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise StructureError(f"the token grid must be (h, w) with both at least 1, got {self.grid}")
        last_group = -1
        for index, reference in enumerate(self.references):
            group = reference.group
            if group is None:
                continue
            if not 0 <= group < self.group_count:
                raise StructureError(
                    f"reference {index} ({reference.kind}) is in group {group}, but there are {self.group_count} groups"
                )
            if group < last_group or (group == last_group and self.references[index - 1].group != group):
                raise StructureError(
                    f"reference {index} ({reference.kind}) of group {group} comes after group {last_group}: "
                    "the members of a group must be adjacent and groups ascend"
                )
            last_group = group

    @property
    def frame_tokens(self) -> int:
        """Tokens of one frame, h·w."""
        return self.grid[0] * self.grid[1]

    @property
    def video_tokens(self) -> int:
        """Tokens of the video, T·h·w."""
        return self.frames * self.frame_tokens

    @property
    def reference_tokens(self) -> int:
        """Tokens of the references, N·h·w."""
        return len(self.references) * self.frame_tokens

    @property
    def tokens(self) -> int:
        """Length of the sequence, (T + N)·h·w."""
        return self.video_tokens + self.reference_tokens

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The references as contiguous blocks of the block-diagonal part of CSAM."""
        segments: list[Segment] = []
        for index, reference in enumerate(self.references):
            if reference.group is not None and segments and segments[-1].group == reference.group:
                segments[-1] = Segment(segments[-1].start, segments[-1].count + 1, reference.group)
            else:
                segments.append(Segment(index, 1, reference.group))
        return tuple(segments)

    def frame_offsets(self, r2pe: bool = True) -> tuple[tuple[int, int, int], ...]:
        """R2PE: (time index, row offset, column offset) of each of the T + N frames.

        Video frames count up in time. Each segment takes the next time index; member i of a group is shifted
        by i whole frames in rows and columns, so that its members never share a position. Without R2PE, references
        go on counting in time like frames.
        """
        if not r2pe:
            return tuple((time, 0, 0) for time in range(self.frames + len(self.references)))
        h, w = self.grid
        offsets = [(time, 0, 0) for time in range(self.frames)]
        for time, segment in enumerate(self.segments, start=self.frames):
            offsets.extend((time, member * h, member * w) for member in range(segment.count))
        return tuple(offsets)

    def phrase_coefficients(self, text_len: int) -> list[list[float]]:
        """MCAM: for each reference the coefficient of every text token, [N][text_len].

        Alone: 1 on its own phrase. In a group: 1 on the union of the group's phrases, minus the mean over the
        other G-1 groups of theirs; a single group has its union alone.

        Raises:
            StructureError: a phrase lies beyond `text_len`.
        """
        unions: list[set[int]] = [set() for _ in range(self.group_count)]
        for index, reference in enumerate(self.references):
            if reference.text_positions and reference.text_positions[-1] >= text_len:
                raise StructureError(
                    f"reference {index} ({reference.kind}) is tied to text position {reference.text_positions[-1]}, "
                    f"but the text has {text_len} tokens"
                )
            if reference.group is not None:
                unions[reference.group].update(reference.text_positions)
        rows = []
        for reference in self.references:
            row = [0.0] * text_len
            own = reference.text_positions if reference.group is None else unions[reference.group]
            for position in own:
                row[position] = 1.0
            if reference.group is not None and self.group_count > 1:
                for other, union in enumerate(unions):
                    if other != reference.group:
                        for position in union:
                            row[position] -= 1.0 / (self.group_count - 1)
            rows.append(row)
        return rows
