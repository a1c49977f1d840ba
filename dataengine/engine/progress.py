"""Shows how far a run is: bars for a person, a line now and then for a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dataengine.config import Prices
from dataengine.engine.outlook import Outlook, StageOutlook, Watch
from dataengine.engine.tally import Tally
from dataengine.engine.worker import Counts

REFRESH_S = 0.5
LOG_EVERY_S = 15.0


@contextmanager
def shown(
    tally: Tally, expected: Mapping[str, int | None], prices: Prices, console: Console, gpus: Mapping[str, float]
) -> Iterator[None]:
    """Show the tally while the block runs: live on a terminal, else as a line every 15 s and one at the end.

    `expected` names the stages in their order, each with the rows that have nothing stored yet (a gate may still spare
    some); None: unknown. `gpus` are those that one worker of a stage holds.
    """
    watch = Watch(expected, prices, gpus, time.monotonic())
    stop, finished = threading.Event(), threading.Event()
    follow = _live if console.is_terminal else _lines
    thread = threading.Thread(target=follow, args=(tally, watch, console, stop, finished), daemon=True)
    thread.start()
    try:
        yield
        finished.set()
    finally:
        stop.set()
        thread.join()


def _live(tally: Tally, watch: Watch, console: Console, stop: threading.Event, finished: threading.Event) -> None:
    with Live(console=console, auto_refresh=False) as live:
        ended = False
        while not ended:
            ended = stop.wait(REFRESH_S)
            outlook = watch.look(tally.snapshot(), time.monotonic(), finished.is_set())
            live.update(panel(outlook, console.width), refresh=True)


def _lines(tally: Tally, watch: Watch, console: Console, stop: threading.Event, finished: threading.Event) -> None:
    """The tally is read more often than it is printed: rates come from what happened between two readings."""
    printed: dict[str, Counts] = {}
    printed_at = time.monotonic()
    ended = False
    while not ended:
        ended = stop.wait(REFRESH_S)
        counts, now = tally.snapshot(), time.monotonic()
        outlook = watch.look(counts, now, finished.is_set())
        if ended or (now - printed_at >= LOG_EVERY_S and counts != printed):
            console.print(line(outlook, datetime.now().astimezone()), highlight=False, markup=False, soft_wrap=True)
            printed, printed_at = counts, now


def line(outlook: Outlook, at: datetime) -> str:
    """One line for a log: `progress time=… elapsed_s=45 eta_s=80+ quarantined=1 cost=0.012 faces=30/40,2.1/s,cached:8`.

    `+`: it may take longer; `?`: unknown. Rows of a stage that were cached are beside its `handled/total`, not in it.
    """
    left = "?" if outlook.eta_s is None else f"{outlook.eta_s:.0f}{'+' if outlook.eta_is_bound else ''}"
    head = (
        f"progress time={at.isoformat(timespec='seconds')} elapsed_s={outlook.elapsed_s:.0f} eta_s={left} "
        f"quarantined={outlook.quarantined} cost={money(outlook.cost)}"
    )
    return " ".join((head, *(_stage_words(s) for s in outlook.standings)))


def _stage_words(s: StageOutlook) -> str:
    parts = [f"{s.stage}={s.handled}/{'?' if s.total is None else s.total}"]
    parts += [f"{s.rate:.3g}/s"] if s.rate is not None else []
    counts = (("cached", s.counts.cached), ("spared", s.counts.gated), ("quarantined", s.counts.quarantined))
    return ",".join([*parts, *(f"{word}:{n}" for word, n in counts if n)])


def panel(outlook: Outlook, width: int) -> Group:
    """The live display: a bar a stage and a line on the whole, at most `width` columns wide."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("stage", no_wrap=True)
    table.add_column("")
    for name in ("rows", "rows/s", "eta", "cached", "spared", "quarantined"):
        table.add_column(name, justify="right", no_wrap=True)
    bar = max(8, min(30, width - 80))  # what the other columns leave
    for s in outlook.standings:
        table.add_row(
            s.stage,
            _bar(s, bar),
            f"{s.handled}/{'?' if s.total is None else s.total}",
            "·" if s.rate is None else f"{s.rate:.3g}",
            "?" if s.eta_s is None else clock(s.eta_s) if s.eta_s else "·",
            *(str(n) if n else "·" for n in (s.counts.cached, s.counts.gated)),
            Text(str(s.counts.quarantined or "·"), style="yellow" if s.counts.quarantined else ""),
        )
    left = "?" if outlook.eta_s is None else f"{'≥ ' if outlook.eta_is_bound else ''}{clock(outlook.eta_s)}"
    summary = f"elapsed {clock(outlook.elapsed_s)} · eta {left} · cost {money(outlook.cost)}"
    failed = f" · {outlook.quarantined} quarantined" if outlook.quarantined else ""
    return Group(table, Text.assemble((summary, "dim"), (failed, "yellow")))


def _bar(s: StageOutlook, width: int) -> ProgressBar:
    """Full where there is nothing to do, pulsing while the total is unknown."""
    if s.total == 0:
        return ProgressBar(total=1, completed=1, width=width)
    return ProgressBar(total=s.total, completed=s.handled, width=width)


def clock(seconds: float) -> str:
    """`0:07`, `12:34`, `3:05:10`; days as `2 d 03:05:10`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h:02d}:{m:02d}:{s:02d}"
    return f"{h}:{m:02d}:{s:02d}" if h else f"{m}:{s:02d}"


def money(amount: float) -> str:
    """Hundredths, and more digits of what is little: `12.30`, `0.0042`."""
    return f"{amount:.2f}" if amount >= 0.1 or amount == 0 else f"{amount:.4f}"
