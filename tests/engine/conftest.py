from __future__ import annotations

from pathlib import Path

import pytest
from ray import cloudpickle

import toy

# Ray's workers cannot import a test folder: the toy stages travel by value.
cloudpickle.register_pickle_by_value(toy)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    folder = tmp_path / "journal"
    folder.mkdir()
    return folder
