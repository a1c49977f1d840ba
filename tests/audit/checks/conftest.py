"""What the checks' tests share: a clean sample of two people, and findings of one check."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from audit_samples import sample
from dataengine.audit.checks import Aids, Case, Check, CheckLimits, Finding
from dataengine.audit.scene import Scene

Found = Callable[..., dict[str, Finding]]


@pytest.fixture(scope="session")
def clean() -> Scene:
    """Two people, s0 with two attributes and s1 with one or more, and a clip."""
    return sample(14, 2, clip=True)


@pytest.fixture(scope="session")
def found() -> Found:
    """`found(check, scene, limits=…, scorer=…)`: the check's findings by entity."""

    def run(check: Check, scene: Scene, limits: CheckLimits | None = None, **aids: object) -> dict[str, Finding]:
        case = Case(scene, limits or CheckLimits(), Aids(**aids))
        return {finding.entity: finding for finding in check(case)}

    return run
