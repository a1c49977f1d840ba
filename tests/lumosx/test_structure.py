from __future__ import annotations

import pytest

from dataengine.lumosx.parity import load_fixture
from dataengine.lumosx.structure import Kind, Reference, SampleStructure, Segment, StructureError


def test_offsets_and_coefficients_are_those_of_the_released_cases(fixtures, fixture_model, case):
    spec, _ = case
    (sample,) = load_fixture(fixtures / f"{spec['name']}.json", fixture_model.config)
    structure = sample.structure
    offsets = structure.frame_offsets()
    coefficients = structure.phrase_coefficients(spec["text_len"])
    assert offsets[: spec["video_frames"]] == tuple((t, 0, 0) for t in range(spec["video_frames"]))
    for condition, row in zip(spec["conditions"], coefficients, strict=True):
        rope = condition["rope"]
        assert offsets[condition["frame"]] == (rope["time"], rope["row_offset"], rope["col_offset"])
        assert {str(i): c for i, c in enumerate(row) if c} == condition["cross_coefficient"]


def test_segments_are_groups_or_single_references(family):
    assert family.segments == (
        Segment(0, 1, None),
        Segment(1, 1, None),
        Segment(2, 1, None),
        Segment(3, 3, 0),
        Segment(6, 2, 1),
    )
    assert (family.video_tokens, family.reference_tokens, family.tokens) == (90, 360, 450)


def test_an_empty_group_dilutes_the_penalty_but_takes_no_time_index(family):
    face = family.phrase_coefficients(12)[3]
    # Own union {1,3,4,6}; the other group's {2,3,7} costs 1/(3-1) each; 3 is in both.
    assert face == [0, 1, -0.5, 0.5, 1, 0, 1, -0.5, 0, 0, 0, 0]
    without = SampleStructure(family.frames, family.grid, family.references, group_count=2)
    assert without.phrase_coefficients(12)[3] == [0, 1, -1, 0, 1, 0, 1, -1, 0, 0, 0, 0]
    assert without.frame_offsets() == family.frame_offsets()


def test_without_r2pe_references_go_on_counting_like_frames(family):
    assert family.frame_offsets(r2pe=False) == tuple((t, 0, 0) for t in range(family.frames + len(family.references)))


def test_one_group_has_its_union_alone():
    references = (Reference(Kind.FACE, (0,), 0), Reference(Kind.ATTRIBUTE, (2,), 0))
    assert SampleStructure(1, (2, 2), references, 1).phrase_coefficients(3) == [[1, 0, 1], [1, 0, 1]]


def test_structure_is_hashable_and_normalised():
    one = SampleStructure(1, [2, 3], [Reference("face", (3, 1, 3), 0)], 1)
    assert one.references[0].text_positions == (1, 3)
    assert hash(one) == hash(SampleStructure(1, (2, 3), (Reference(Kind.FACE, (1, 3), 0),), 1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SampleStructure(0, (2, 2)), "at least one video frame"),
        (lambda: SampleStructure(1, (0, 2)), "token grid"),
        (lambda: SampleStructure(1, (2, 2), (Reference(Kind.FACE, (), 1),), 1), "reference 0 .face. is in group 1"),
        (lambda: Reference(Kind.ATTRIBUTE, (1,)), "belongs to a subject"),
        (lambda: Reference(Kind.BACKGROUND, (1,), 0), "must stand alone"),
        (lambda: Reference(Kind.OBJECT, (-1,)), "negative text position"),
        (lambda: Reference("hat", ()), "hat"),
        (
            lambda: SampleStructure(
                1, (2, 2), (Reference("face", (), 0), Reference("face", (), 1), Reference("attribute", (), 0)), 2
            ),
            "adjacent and groups ascend",
        ),
        (
            lambda: SampleStructure(
                1, (2, 2), (Reference("face", (), 0), Reference("object"), Reference("attribute", (), 0)), 1
            ),
            "reference 2",
        ),
    ],
)
def test_contradictions_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_phrase_beyond_the_text_is_refused(family):
    with pytest.raises(StructureError, match="text position 11, but the text has 11 tokens"):
        family.phrase_coefficients(11)
