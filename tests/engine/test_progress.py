from __future__ import annotations

import io
import re
import time
from datetime import UTC, datetime

import pytest
from rich.console import Console

from dataengine.config import Prices
from dataengine.engine import progress
from dataengine.engine.outlook import Outlook, Watch
from dataengine.engine.progress import clock, line, money, panel, shown
from dataengine.engine.tally import Tally
from dataengine.engine.worker import Counts

PRICES = Prices(cpu_hour=36, gpu_hour=360)


@pytest.fixture
def outlook() -> Outlook:
    """A run half a minute old: videos are done, clips are under way, the last stage has not begun."""
    watch = Watch({"probe": 12, "frames": None, "caption": None}, PRICES, {"caption": 0.5}, started_s=0)
    watch.look({"probe": Counts(done=11), "frames": Counts(done=10, cached=8)}, now_s=20)
    counts = {
        "probe": Counts(done=11, quarantined=1, seconds=3, cpu_seconds=4),
        "frames": Counts(done=20, cached=8, gated=1, seconds=9, cpu_seconds=1),
    }
    return watch.look(counts, now_s=30)


def test_a_line_for_a_log(outlook: Outlook) -> None:
    at = datetime(2026, 11, 24, 12, 9, 43, tzinfo=UTC)
    assert line(outlook, at) == (
        "progress time=2026-11-24T12:09:43+00:00 elapsed_s=30 eta_s=0+ quarantined=1 cost=0.0500 "
        "probe=12/12,0.1/s,quarantined:1 frames=21/?,1.1/s,cached:8,spared:1 caption=0/29"
    )


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_panel_fits_a_terminal(outlook: Outlook, width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, record=True)
    console.print(panel(outlook, width))
    text = console.export_text()
    assert max(len(row.rstrip()) for row in text.splitlines()) <= width
    rows = {words[0]: words for words in (row.split() for row in text.splitlines())}
    assert rows["stage"] == ["stage", "rows", "rows/s", "eta", "cached", "spared", "quarantined"]
    assert rows["probe"][2:] == ["12/12", "0.1", "·", "·", "·", "1"]
    assert rows["frames"][2:] == ["21/?", "1.1", "?", "8", "1", "·"]
    assert rows["caption"][2:] == ["0/29", "·", "?", "·", "·", "·"]
    assert "elapsed 0:30 · eta ≥ 0:00 · cost 0.0500 · 1 quarantined" in text


def show(console: Console, expected: dict[str, int | None]) -> None:
    tally = Tally()
    with shown(tally, expected, PRICES, console, {}):
        tally("probe", Counts(done=3, cpu_seconds=1))
        tally("frames", Counts(done=8, quarantined=1))
        tally.snapshot(timeout_s=60)  # Ray may take a while to start the actor


@pytest.mark.usefixtures("ray_here")
def test_a_log_ends_with_how_it_ended() -> None:
    out = io.StringIO()
    show(Console(file=out, width=40), {"probe": 4, "frames": None})
    only = out.getvalue().splitlines()[-1]  # one line, whatever the width
    assert re.fullmatch(
        r"progress time=\S+ elapsed_s=\d+ eta_s=0 quarantined=1 cost=0\.0100 probe=3/3 frames=9/9,quarantined:1", only
    )


@pytest.mark.usefixtures("ray_here")
def test_a_log_gets_a_line_when_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REFRESH_S", 0.01)
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    out = io.StringIO()

    def logged(done: int) -> list[str]:
        """The lines, once there is one with that many rows; whatever there is after a minute."""
        patience = time.monotonic() + 60
        while f"probe={done}/9" not in out.getvalue() and time.monotonic() < patience:
            time.sleep(0.01)
        time.sleep(0.2)  # many refreshes, in which nothing changes
        return [line.split(" probe=")[1].split("/")[0] for line in out.getvalue().splitlines()]

    tally = Tally()
    with shown(tally, {"probe": 9}, PRICES, Console(file=out), {}):
        tally("probe", Counts(done=3))
        assert logged(3) == ["3"]
        tally("probe", Counts(done=6))
        assert logged(9) == ["3", "9"]
    assert logged(9) == ["3", "9", "9"]


@pytest.mark.usefixtures("ray_here")
def test_a_run_that_fails_is_not_shown_as_finished() -> None:
    out = io.StringIO()
    tally = Tally()
    with pytest.raises(KeyboardInterrupt), shown(tally, {"probe": 4}, PRICES, Console(file=out), {}):
        tally("probe", Counts(done=3))
        tally.snapshot(timeout_s=60)
        raise KeyboardInterrupt
    assert " eta_s=? " in out.getvalue()
    assert "probe=3/4" in out.getvalue()


@pytest.mark.usefixtures("ray_here")
def test_a_terminal_shows_bars() -> None:
    out = io.StringIO()
    show(Console(file=out, force_terminal=True, width=100), {"probe": 4, "frames": None})
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue().split("stage")[-1])
    assert re.search(r"probe +━+ +3/3 ", last)
    assert re.search(r"frames +━+ +9/9 .* 1\b", last)
    assert "eta 0:00" in last


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (754, "12:34"), (11_110, "3:05:10"), (183_910, "2 d 03:05:10")],
)
def test_clock(seconds: float, said: str) -> None:
    assert clock(seconds) == said


@pytest.mark.parametrize(("amount", "said"), [(0, "0.00"), (0.00423, "0.0042"), (0.3, "0.30"), (12.304, "12.30")])
def test_money(amount: float, said: str) -> None:
    assert money(amount) == said
