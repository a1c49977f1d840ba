"""The report of a build: `report.json` for machines and one self-contained page, `report.html`, for people."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
import pyarrow.parquet as pq
from markupsafe import Markup
from pydantic import Field

from dataengine.audit import palette
from dataengine.audit.cards import Card, card
from dataengine.audit.checks import CheckLimits, check_sample
from dataengine.audit.sampling import evenly
from dataengine.audit.scene import Scene, UnreadableSample
from dataengine.audit.statistics import Statistics, Tally
from dataengine.audit.wording import shortened, visible
from dataengine.records import Quarantined, Record, RunSummary
from dataengine.shards.index import Index, IndexRow
from dataengine.store import Store

log = logging.getLogger(__name__)

_SHOWN_ROWS = 200
"""Rows of the quarantine table that stand on the page; the parquet file has all."""


class Refusal(Record):
    """What one rule kept out."""

    rule: str
    times: int
    example: str = Field(description="what the rule saw the first time")


class Report(Record):
    """`report.json`."""

    dataset: str
    run: RunSummary | None = Field(description="the build that made the dataset, if it left a summary")
    refusals: tuple[Refusal, ...] = Field(description="clips that gave no sample")
    dropped: tuple[Refusal, ...] = Field(description="parts of clips that their sample goes without")
    quarantine: tuple[Quarantined, ...] = Field(description="the first 200 rows")
    quarantined: int
    statistics: Statistics


def write_report(out: Store, limit: int = 48, limits: CheckLimits | None = None) -> Report:
    """Read a dataset, check all its samples and write `report.html` and `report.json` beside its shards.

    The page shows at most `limit` samples: up to half of them failed checks, the rest is evenly spread. A sample that
    cannot be read is named and does not stop the report. Raises what `Index.read` raises when `out` holds no dataset.
    """
    index = Index.read(out)
    limits = limits or CheckLimits()
    tally = Tally()
    failures: dict[int, int] = {}  # numbers only: memory must not grow with what the dataset holds
    for position, row in enumerate(index):
        try:
            scene = Scene.stored(out, row)
            findings = check_sample(scene.pair, scene.masks, limits)
        except UnreadableSample as error:
            log.warning("%s", error)
            tally.add_unreadable(shortened(str(error), 400))
            continue
        tally.add(scene.pair, findings)
        if failed := sum(not finding.passed for finding in findings):
            failures[position] = failed
    run = _run(out)
    quarantine = _quarantine(out)
    clips = _rows(out, "clips.parquet", ["verdict", "detail", "dropped"])
    report = Report(
        dataset=visible(out.uri.rstrip("/").rsplit("/", 1)[-1]),
        run=run,
        refusals=_grouped((clip["verdict"], clip["detail"]) for clip in clips if clip["verdict"] != "kept"),
        dropped=_grouped(_rule_first(part) for clip in clips for part in clip["dropped"]),
        quarantine=tuple(quarantine[:_SHOWN_ROWS]),
        quarantined=len(quarantine),
        statistics=tally.result(),
    )
    worst = sorted(failures, key=lambda position: (-failures[position], position))[: max(1, limit // 2)]
    others = [position for position in evenly(len(index), limit) if position not in worst][: limit - len(worst)]
    worst_cards, other_cards = (
        [made for position in positions if (made := _card(out, index[position], limits)) is not None]
        for positions in (worst, others)
    )
    out.write("report.json", (report.model_dump_json(indent=1) + "\n").encode())
    out.write("report.html", render(report, worst_cards, other_cards).encode())
    return report


def render(report: Report, worst: Sequence[Card], others: Sequence[Card]) -> str:
    """The page. Everything from the dataset is escaped; a content security policy forbids scripts and the network."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dataengine.audit"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": _count,
        "seconds": _seconds,
        "number": _number,
        "seen": visible,
        "brief": shortened,
    }
    entities = _entities((*worst, *others))
    style = environment.get_template("report.css").render(colours=palette.ALL, entities=entities)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return environment.get_template("report.html").render(
        report=report,
        run=report.run,
        numbers=report.statistics,
        worst=worst,
        others=others,
        shown={card.key for card in (*worst, *others)},
        config="" if report.run is None else _lines(json.dumps(report.run.config, indent=2, ensure_ascii=False)),
        style=Markup(style),  # noqa: S704 — from our own file; of the dataset it holds entity ids alone, which the record restricts
        style_digest=digest,
    )


def _entities(cards: Iterable[Card]) -> list[str]:
    """Everything that stands on the page: each gets a rule in the style sheet that lights it up in all its places."""
    found = {reference.entity for shown in cards for reference in shown.pair.references}
    return sorted(found)


def _card(out: Store, row: IndexRow, limits: CheckLimits) -> Card | None:
    """None where there is not even a record to show; the statistics name such a sample."""
    try:
        scene = Scene.stored(out, row)
    except UnreadableSample:
        return None
    try:
        return card(scene, check_sample(scene.pair, scene.masks, limits))
    except UnreadableSample:
        return card(scene, ())


def _run(out: Store) -> RunSummary | None:
    if not out.exists("measurements/run.json"):
        return None
    return RunSummary.from_json(out.read("measurements/run.json"))


def _quarantine(out: Store) -> list[Quarantined]:
    rows = _rows(out, "quarantine.parquet", list(Quarantined.model_fields))
    return [Quarantined.model_validate(row) for row in rows]


def _grouped(reasons: Iterable[tuple[str, str]]) -> tuple[Refusal, ...]:
    """Rules by how often they refused something, each with what it saw the first time."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for rule, detail in reasons:
        counts[rule] += 1
        examples.setdefault(rule, detail)
    return tuple(
        Refusal(rule=rule, times=times, example=shortened(examples[rule], 160))
        for rule, times in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def _rule_first(dropped: str) -> tuple[str, str]:
    """The rule and the rest of `entity: rule: detail`."""
    entity, _, rest = dropped.partition(": ")
    rule, _, detail = rest.partition(": ")
    return rule, f"{entity}: {detail}"


def _rows(out: Store, name: str, columns: list[str]) -> list[dict[str, Any]]:
    if not out.exists(name):
        return []
    with out.open_input(name) as stream:
        return pq.read_table(stream, columns=columns).to_pylist()


def _lines(text: str) -> str:
    """`visible`, line by line."""
    return "\n".join(visible(line) for line in text.splitlines())


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _number(value: float) -> str:
    """At most three significant digits, whole numbers without a point."""
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    """A length of time: 12.5 s, 4:44 min, 3:05 h."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours}:{rest:02d} h" if hours else f"{minutes}:{seconds:02d} min"
