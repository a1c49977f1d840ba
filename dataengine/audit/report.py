"""The report of a build: `report.json` for machines and one self-contained page, `report.html`, for people."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq
from markupsafe import Markup
from pydantic import Field

from dataengine.audit import palette
from dataengine.audit.cards import Card, card
from dataengine.audit.checks import CheckLimits, Finding, check_sample
from dataengine.audit.sampling import evenly
from dataengine.audit.scene import Scene, UnreadableSample
from dataengine.audit.statistics import Statistics, Tally
from dataengine.audit.wording import shortened, visible
from dataengine.records import Pair, Quarantined, Record, RunSummary
from dataengine.shards.index import Index, IndexRow, read_member
from dataengine.store import Store

log = logging.getLogger(__name__)

_SHOWN_ROWS = 200
"""Rows of the quarantine table that stand on the page; the parquet file has all."""


class Refusal(Record):
    """Clips that one rule refused."""

    rule: str
    clips: int
    example: str = Field(description="what the rule saw in one of them")


class Report(Record):
    """`report.json`."""

    dataset: str
    run: RunSummary | None = Field(description="the build that made the dataset, if it left a summary")
    refusals: tuple[Refusal, ...]
    quarantine: tuple[Quarantined, ...] = Field(description="the first 200 rows")
    quarantined: int
    statistics: Statistics


@dataclass(frozen=True)
class _StoredMembers(Mapping[str, bytes]):
    """A sample's members, each fetched from its shard by one ranged read when it is asked for."""

    store: Store
    row: IndexRow

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        return read_member(self.store, self.row, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def _names(self) -> list[str]:
        return [member.name for member in self.row.members]


def write_report(out: Path, limit: int = 48, limits: CheckLimits | None = None) -> Report:
    """Read the dataset in `out`, check all its samples and write `report.html` and `report.json` beside its shards.

    The page shows at most `limit` samples: up to half of them failed checks, the rest is evenly spread. A sample that
    cannot be read is named and does not stop the report. Raises `StoreError` when `out` holds no dataset.
    """
    store = Store.at(out)
    index = Index.read(store)
    limits = limits or CheckLimits()
    tally = Tally()
    found: dict[int, tuple[Finding, ...]] = {}  # only of samples that failed: memory must not grow with the dataset
    for number, row in enumerate(index):
        try:
            scene = _scene(store, row)
            findings = check_sample(scene.pair, scene.masks, limits)
        except (OSError, ValueError) as error:
            problem = shortened(f"{row.key}: {error}", 400)
            log.warning("%s", problem)
            tally.add_unreadable(problem)
            continue
        tally.add(scene.pair, findings)
        if any(not finding.passed for finding in findings):
            found[number] = findings
    quarantine = _quarantine(store)
    run = _run(store)
    report = Report(
        dataset=visible(out.resolve().name),
        run=run,
        refusals=_refusals(store, run),
        quarantine=tuple(quarantine[:_SHOWN_ROWS]),
        quarantined=len(quarantine),
        statistics=tally.result(),
    )
    worst = sorted(found, key=lambda n: (-sum(not f.passed for f in found[n]), n))[: max(1, limit // 2)]
    others = [number for number in evenly(len(index), limit) if number not in worst] if len(index) else []
    cards = [
        [made for number in numbers if (made := _card(store, index[number], limits)) is not None]
        for numbers in (worst, others[: limit - len(worst)])
    ]
    store.write("report.json", (report.model_dump_json(indent=1) + "\n").encode())
    store.write("report.html", render(report, cards[0], cards[1], limits).encode())
    return report


def render(report: Report, worst: list[Card], others: list[Card], limits: CheckLimits) -> str:
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
    style = environment.get_template("report.css").render(colours=palette.ALL, entities=_ENTITIES)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return environment.get_template("report.html").render(
        report=report,
        run=report.run,
        numbers=report.statistics,
        worst=worst,
        others=others,
        shown={card.key for card in (*worst, *others)},
        limits=limits,
        config="" if report.run is None else visible_lines(json.dumps(report.run.config, indent=2, ensure_ascii=False)),
        style=Markup(style),  # noqa: S704 — rendered from our own file and palette, nothing of the dataset is in it
        style_digest=digest,
    )


# Every entity gets a rule in the style sheet that lights it up wherever it stands; a card has no more than these.
_ENTITIES = (
    "bg",
    *(f"o{i}" for i in range(6)),
    *(f"s{i}.{part}" for i in range(4) for part in ("face", "body", "a0", "a1", "a2")),
)


def _scene(store: Store, row: IndexRow) -> Scene:
    members = _StoredMembers(store, row)
    return Scene(Pair.from_json(members["json"]), members)


def _card(store: Store, row: IndexRow, limits: CheckLimits) -> Card | None:
    try:
        scene = _scene(store, row)
    except (OSError, ValueError, KeyError):
        return None  # counted and named among the unreadable ones
    try:
        findings = check_sample(scene.pair, scene.masks, limits)
    except UnreadableSample:
        findings = ()
    return card(scene, findings)


def _run(store: Store) -> RunSummary | None:
    if not store.exists("measurements/run.json"):
        return None
    return RunSummary.from_json(store.read("measurements/run.json"))


def _quarantine(store: Store) -> list[Quarantined]:
    return [
        Quarantined.model_validate(row) for row in _rows(store, "quarantine.parquet", list(Quarantined.model_fields))
    ]


def _refusals(store: Store, run: RunSummary | None) -> tuple[Refusal, ...]:
    """Rules by the number of clips they refused, from the table of clips or else from the run's own counts."""
    rows = [row for row in _rows(store, "clips.parquet", ["rule", "detail"]) if row["rule"]]
    counts = Counter(row["rule"] for row in rows) or Counter({} if run is None else run.rejected)
    examples = {row["rule"]: row["detail"] for row in reversed(rows)}
    return tuple(
        Refusal(rule=rule, clips=clips, example=shortened(examples.get(rule) or "", 160))
        for rule, clips in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def _rows(store: Store, name: str, columns: list[str]) -> list[dict[str, Any]]:
    if not store.exists(name):
        return []
    with store.open_input(name) as stream:
        return pq.read_table(stream, columns=columns).to_pylist()


def visible_lines(text: str) -> str:
    """`visible`, line by line."""
    return "\n".join(visible(line) for line in text.splitlines())


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _number(value: float) -> str:
    """At most three significant digits, whole numbers without a point."""
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    """A length of time as people say it."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
