"""Masks: the one that a reference was cut by. (Areas, boxes, borders and holes: `test_init.py`.)"""

from __future__ import annotations

import numpy as np

from audit_samples import png
from dataengine.audit.checks import masks
from dataengine.audit.scene import Scene


def test_a_reference_cut_by_another_mask(clean, found) -> None:
    assert all(f.passed for f in found(masks.mask_cuts_reference, clean).values())
    moved = np.roll(clean.masks["s0.a0"], 25, axis=1)
    scene = Scene(clean.pair, clean.members | {"s0.a0.mask.png": png(moved)})
    findings = found(masks.mask_cuts_reference, scene)
    assert {entity for entity, f in findings.items() if not f.passed} == {"s0.a0"}
    assert "beside its mask" in findings["s0.a0"].reason


def test_a_reference_of_another_size(clean, found) -> None:
    picture = np.asarray(clean.image(clean.pair.subjects[0].attributes[0]))[:-3]
    scene = Scene(clean.pair, clean.members | {"s0.a0.png": png(picture)})
    finding = found(masks.mask_cuts_reference, scene)["s0.a0"]
    assert (finding.passed, finding.score) == (False, 0.0)


def test_white_clothes_are_no_fault(clean, found) -> None:
    attribute = clean.pair.subjects[0].attributes[0]
    picture = np.asarray(clean.image(attribute)).copy()
    worn = (picture != 255).any(axis=2)
    picture[worn] = 255
    picture[worn & (np.indices(worn.shape).sum(axis=0) % 3 == 0)] = 250
    scene = Scene(clean.pair, clean.members | {attribute.member: png(picture)})
    assert found(masks.mask_cuts_reference, scene)[attribute.entity].passed
