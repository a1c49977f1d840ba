"""Notes of processes that died, left by processes that really die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dataengine.engine.witness import Deaths, Witness

IDS = ["a" * 24, "b" * 24]


def die(folder: Path, how: str) -> None:
    code = f"""
import ctypes, os, signal, sys
from pathlib import Path
from dataengine.engine.witness import Witness
witness = Witness("run", Path(sys.argv[1]))
def touch_nothing():
    {how}
with witness.watching("stage", {IDS}):
    touch_nothing()
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, check=False)
    assert done.returncode != 0


def test_a_kill_from_outside_leaves_a_note_without_a_reason(tmp_path: Path) -> None:
    for times in (1, 2):
        die(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
        assert Witness("run", tmp_path).deaths("stage", IDS) == Deaths(times)


def test_a_crash_says_where(tmp_path: Path) -> None:
    die(tmp_path, "ctypes.string_at(0)")
    deaths = Witness("run", tmp_path).deaths("stage", IDS)
    assert deaths.times == 1
    assert deaths.crash is not None
    assert "Segmentation fault" in deaths.crash
    assert "string_at" in deaths.crash


def test_a_hang_is_told(tmp_path: Path) -> None:
    die(tmp_path, f"witness.hung('stage', {IDS}); os._exit(1)")
    assert Witness("run", tmp_path).deaths("stage", IDS) == Deaths(1, hung=True)


@pytest.mark.parametrize("fails", [False, True])
def test_who_comes_back_leaves_nothing(tmp_path: Path, fails: bool) -> None:
    witness = Witness("run", tmp_path)
    try:
        with witness.watching("stage", IDS):
            assert len(list(tmp_path.iterdir())) == 1
            if fails:
                raise ValueError
    except ValueError:
        pass
    assert witness.deaths("stage", IDS) == Deaths()
    assert not list(tmp_path.iterdir())


def test_other_rows_stages_and_runs_are_not_blamed(tmp_path: Path) -> None:
    die(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    witness = Witness("run", tmp_path)
    assert witness.deaths("stage", IDS[:1]) == witness.deaths("other", IDS) == Deaths()
    assert Witness("later", tmp_path).deaths("stage", IDS) == Deaths()
    witness.forget("stage", IDS)
    assert witness.deaths("stage", IDS) == Deaths()


def test_a_link_in_the_shared_folder_is_not_followed(tmp_path: Path) -> None:
    witness, victim = Witness("run", tmp_path), tmp_path / "victim"
    victim.write_text("mine")
    witness._note("stage", IDS).symlink_to(victim)
    with pytest.raises(OSError), witness.watching("stage", IDS):
        os.kill(os.getpid(), signal.SIGCONT)
    assert victim.read_text() == "mine"
