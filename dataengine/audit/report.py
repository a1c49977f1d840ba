"""The report of a build: `report.json` for machines and one self-contained page, `report.html`, for people."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import pyarrow.parquet as pq
from markupsafe import Markup
from pydantic import Field, ValidationError

from dataengine.audit import palette
from dataengine.audit.cards import Card, card
from dataengine.audit.checking import are_checked, check_dataset, stored_findings
from dataengine.audit.checks import READABLE, Finding
from dataengine.audit.estimate import AuditNumbers, Drawn, audit_numbers
from dataengine.audit.events import stored_events
from dataengine.audit.risk import risk_of
from dataengine.audit.sampling import evenly
from dataengine.audit.scene import Scene, UnreadableSample
from dataengine.audit.state import fold
from dataengine.audit.statistics import Statistics, Tally
from dataengine.audit.tables import RISK
from dataengine.audit.wording import shortened, visible
from dataengine.config import AuditSettings, Prices
from dataengine.records import Quarantined, Record, RunSummary, StageSummary
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


class Level(Record):
    """One level of the funnel: the rows that reached a stage and what became of them."""

    stage: str
    unit: str = Field(description="what its rows are: videos or clips")
    stopped: int = Field(description="rows that went no further than the level before, because a rule refused them")
    reached: int
    failed: int
    errors: dict[str, int] = Field(description="the failed ones by class of error")


class ErrorCount(Record):
    """How often a stage failed with one class of error."""

    stage: str
    error: str
    rows: int
    example: str = Field(description="the first one's message")


class Report(Record):
    """`report.json`."""

    dataset: str
    run: RunSummary | None = Field(description="the build that made the dataset, if it left a summary")
    funnel: tuple[Level, ...] = Field(description="how far the run's rows came, by stage in order")
    costs: dict[str, float] = Field(description="by stage, at the run's prices; empty where it had none")
    refusals: tuple[Refusal, ...] = Field(description="clips that gave no sample")
    dropped: tuple[Refusal, ...] = Field(description="parts of clips that their sample goes without")
    errors: tuple[ErrorCount, ...] = Field(description="all quarantined rows by stage and class of error")
    quarantine: tuple[Quarantined, ...] = Field(description="the first 200 rows")
    quarantined: int
    statistics: Statistics
    audit: AuditNumbers | None = Field(description="what auditors have found; None before anyone has judged a sample")


def write_report(out: Store, settings: AuditSettings | None = None, others: int = 12) -> Report:
    """Read a dataset and what its checks found, and write `report.html` and `report.json` beside its shards.

    Runs the checks where nobody has since the dataset was built; else no shard is read for more than the records and
    the samples that the page shows: the riskiest `settings.worst` of those with a failed check, and `others` evenly
    spread over the rest. A sample that cannot be read is named and does not stop the report. Raises what `Index.read`
    raises when `out` holds no dataset, `LogUnavailable` for a log of events that cannot be read.
    """
    index = Index.read(out)
    settings = settings or AuditSettings()
    if not are_checked(out):
        check_dataset(out, settings)
    tally = Tally()
    risks: list[float] = []  # a number a sample: memory must not grow with what the dataset holds
    for row, (_, findings) in zip(index, stored_findings(out), strict=True):
        risk = risk_of(findings, settings.risk)
        risks.append(risk.risk)
        if READABLE in risk.failed:
            tally.add_unreadable(next(f.reason for f in findings if f.check == READABLE))
            continue
        try:
            tally.add(Scene.stored(out, row).pair, findings, risk.risk)
        except UnreadableSample as error:
            log.warning("%s", error)
            tally.add_unreadable(shortened(str(error), 400))
    run = _run(out)
    quarantine = _quarantine(out)
    clips = _rows(out, "clips.parquet", ["verdict", "detail", "dropped"])
    report = Report(
        dataset=visible(out.uri.rstrip("/").rsplit("/", 1)[-1]),
        run=run,
        funnel=() if run is None else funnel(run),
        costs={} if run is None else costs(run),
        refusals=_grouped((clip["verdict"], clip["detail"]) for clip in clips if clip["verdict"] != "kept"),
        dropped=_grouped(_rule_first(part) for clip in clips for part in clip["dropped"]),
        errors=_errors(quarantine),
        quarantine=tuple(quarantine[:_SHOWN_ROWS]),
        quarantined=len(quarantine),
        statistics=tally.result(),
        audit=numbers_of(out, settings),
    )
    risky = (position for position, risk in enumerate(risks) if risk > 0)
    worst = sorted(risky, key=lambda position: (-risks[position], position))[: settings.worst]
    chosen = set(worst)
    rest = [position for position in evenly(len(index), others + len(worst)) if position not in chosen][:others]
    shown = _findings_of(out, {index[position].key for position in (*worst, *rest)})
    worst_cards, other_cards = (
        [made for position in positions if (made := _card(out, index[position], shown)) is not None]
        for positions in (worst, rest)
    )
    out.write("report.json", (report.model_dump_json(indent=1) + "\n").encode())
    out.write("report.html", render(report, worst_cards, other_cards).encode())
    return report


def numbers_of(out: Store, settings: AuditSettings) -> AuditNumbers | None:
    """What auditors have found; None where nobody has audited the dataset, or it was not checked."""
    events = stored_events(out)
    if not events or not out.exists(RISK):
        return None
    with out.open_input(RISK) as stream:
        table = pq.read_table(stream, columns=["key", "source_id", "random_rank"]).sort_by("random_rank")
    drawn = [Drawn(*one) for one in zip(table["key"].to_pylist(), table["source_id"].to_pylist(), strict=True)]
    return audit_numbers(drawn, fold(events), settings)


def _findings_of(out: Store, keys: set[str]) -> dict[str, tuple[Finding, ...]]:
    return {key: findings for key, findings in stored_findings(out) if key in keys}


def funnel(run: RunSummary) -> tuple[Level, ...]:
    """How many rows reached each stage, failed there, or were stopped on the way to it.

    A summary does not say where videos become clips: every video goes on as at least one row, so that is where a stage
    saw more rows than there are videos.
    """
    levels: list[Level] = []
    unit = "videos"
    out_before = 0  # rows that will be spared the next stage
    for stage in run.stages:
        reached = stage.done + stage.cached + stage.quarantined
        if reached + stage.gated > run.sources:
            unit = "clips"
        levels.append(
            Level(
                stage=stage.stage,
                unit=unit,
                stopped=max(0, stage.gated - out_before),
                reached=reached,
                failed=stage.quarantined,
                errors=stage.errors,
            )
        )
        out_before = stage.gated + stage.quarantined
    return tuple(levels)


def costs(run: RunSummary) -> dict[str, float]:
    """What each stage cost at the prices of the run's own configuration; nothing where these cannot be read."""
    try:
        prices = Prices.model_validate(run.config.get("prices", {}))
    except ValidationError:
        return {}

    def cost(stage: StageSummary) -> float:
        return (stage.cpu_seconds * prices.cpu_hour + stage.gpu_seconds * prices.gpu_hour) / 3600

    return {stage.stage: round(cost(stage), 6) for stage in run.stages}


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
        "brief_seconds": _brief_seconds,
        "size": _size,
        "money": _money,
        "setting": _setting,
        "lost": _lost,
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


def _card(out: Store, row: IndexRow, findings: Mapping[str, tuple[Finding, ...]]) -> Card | None:
    """None where there is not even a record to show; the statistics name such a sample."""
    try:
        return card(Scene.stored(out, row), findings[row.key])
    except UnreadableSample:
        return None


def _run(out: Store) -> RunSummary | None:
    if not out.exists("measurements/run.json"):
        return None
    return RunSummary.from_json(out.read("measurements/run.json"))


def _quarantine(out: Store) -> list[Quarantined]:
    rows = _rows(out, "quarantine.parquet", list(Quarantined.model_fields))
    return [Quarantined.model_validate(row) for row in rows]


def _errors(quarantine: Sequence[Quarantined]) -> tuple[ErrorCount, ...]:
    counts = Counter((row.stage, row.error) for row in quarantine)
    examples = {(row.stage, row.error): row.message for row in reversed(quarantine)}
    return tuple(
        ErrorCount(stage=stage, error=error, rows=rows, example=shortened(examples[stage, error], 160))
        for (stage, error), rows in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


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


def _brief_seconds(value: float) -> str:
    """What one row took, two digits that count: 1.2 ms, 45 ms, 0.31 s, 12 s, 5:07 min."""
    if value < 0.1:
        return f"{1000 * value:.2g} ms"
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s" if value < 60 else _seconds(value)


def _size(value: int) -> str:
    """Bytes in the unit that leaves at most three digits: 812 B, 4.1 kB, 35 MB."""
    amount, unit = float(value), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.1f} {unit}" if amount < 10 and unit != "B" else f"{amount:.0f} {unit}"


def _money(value: float) -> str:
    """Hundredths, and more digits of what is little: 12.30, 0.0042."""
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.4f}"


def _lost(level: Level) -> str:
    """For instance: 12 refused before it, 3 failed: BadInput ×2, RowTimeout."""
    errors = ", ".join(f"{error} ×{_count(n)}" if n > 1 else error for error, n in level.errors.items())
    parts = [f"{_count(level.stopped)} refused before it"] if level.stopped else []
    parts += [f"{_count(level.failed)} failed{': ' if errors else ''}{errors}"] if level.failed else []
    return visible(", ".join(parts))


def _setting(value: object) -> str:
    """A parameter's value as people read it; strings bare, everything else as JSON."""
    return shortened(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 120)
