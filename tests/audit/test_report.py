from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataengine.audit.checking import check_dataset
from dataengine.audit.events import EventLog, Verdict
from dataengine.audit.report import Level, Report, costs, funnel, render, write_report
from dataengine.audit.scene import Scene
from dataengine.audit.statistics import Tally
from dataengine.config import AuditSettings, CheckLimits
from dataengine.records import Quantiles, Quarantined, RunSummary, StageProvenance, StageSummary
from dataengine.shards.index import write_index
from dataengine.store import Store, StoreError


class Page(HTMLParser):
    """Every element with its attributes, and all text outside of the style sheet."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text += data


def test_the_numbers_are_the_datasets(dataset: Store) -> None:
    report = write_report(dataset)
    assert Report.from_json(dataset.read("report.json")) == report
    assert report.statistics.samples == 3
    assert report.statistics.failed_samples == 0
    assert [(r.rule, r.times) for r in report.refusals] == [("face_min_px", 2)]
    assert [(r.rule, r.times) for r in report.dropped] == [("attribute_min_area", 3)]
    assert report.dropped[0].example == "s0.a1: 0.0010 of the frame"
    assert report.quarantined == 1
    page = Page(dataset.read("report.html").decode())
    text = re.sub(r"\s+", " ", page.text)
    for words in (
        "3 samples",
        "older woman",
        "officer's cap",
        "the file ends <i>early</i>",
        "a face of <u>20</u> pixels",
    ):
        assert words in text
    assert sum(tag == "article" for tag, _ in page.elements) == 3


def test_hostile_words_stay_words(dataset: Store) -> None:
    write_report(dataset)
    html = dataset.read("report.html").decode()
    page = Page(html)
    allowed = {
        "a", "article", "b", "bdi", "body", "circle", "code", "details", "div", "figcaption", "figure", "footer", "g",
        "h1", "h2", "h3", "head", "header", "html", "img", "input", "label", "li", "line", "main", "meta", "nav", "p",
        "path", "pre", "rect", "section", "span", "style", "summary", "svg", "table", "tbody", "td", "text", "th",
        "thead", "title", "tr", "ul",
    }  # fmt: skip
    assert {tag for tag, _ in page.elements} <= allowed
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "formaction")]
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/webp;base64,")
        if "href" in attributes:
            assert (attributes["href"] or "").startswith("#")
    assert "<img src=x onerror=alert(1)>" in page.text  # as words
    assert "{{7*7}}" in page.text
    assert "a <b>dataset" in page.text
    assert "</pre><script>alert(5)</script>" in page.text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00]", html)
    assert "⟨U+202E⟩" in page.text
    assert len(html) < 2_000_000


def stage(name: str, done: int, gated: int = 0, failed: int = 0, **more: object) -> StageSummary:
    """A stage of a run in which four rows were stored before."""
    nothing = {"seconds": 0.0, "cpu_seconds": 0.0, "gpu_seconds": 0.0, "bytes": 0, "row_seconds": None}
    errors = {"BadInput": failed} if failed else {}
    counts = {"done": done, "cached": 4, "gated": gated, "quarantined": failed, "errors": errors}
    return StageSummary.model_validate({"stage": name, "fingerprint": "f", "model": "m", **counts, **nothing, **more})


def run_of(dataset: Store, **more: object) -> RunSummary:
    return RunSummary.from_json(dataset.read("measurements/run.json")).model_copy(update=more)


def rewrite(dataset: Store, **more: object) -> Page:
    dataset.write("measurements/run.json", run_of(dataset, **more).to_json().encode())
    write_report(dataset, others=1)
    return Page(dataset.read("report.html").decode())


def test_the_funnel_follows_rows_from_videos_to_clips(dataset: Store) -> None:
    stages = (
        stage("probe", 5, failed=1),
        stage("shots", 5, gated=1),
        # Two videos came to nothing (one failed, one gave no clip); 30 clips were cut from the others.
        stage("frames", 24, gated=2, failed=2),
        stage("faces", 24, gated=4),
        stage("caption", 11, gated=17),
    )
    levels = funnel(run_of(dataset, sources=10, clips=30, stages=stages))
    assert levels == (
        Level(stage="probe", unit="videos", stopped=0, reached=10, failed=1, errors={"BadInput": 1}),
        Level(stage="shots", unit="videos", stopped=0, reached=9, failed=0, errors={}),
        Level(stage="frames", unit="clips", stopped=1, reached=30, failed=2, errors={"BadInput": 2}),
        Level(stage="faces", unit="clips", stopped=0, reached=28, failed=0, errors={}),
        Level(stage="caption", unit="clips", stopped=13, reached=15, failed=0, errors={}),
    )
    page = rewrite(dataset, sources=10, clips=30, stages=stages)
    drawn = re.sub(r"\s+", " ", page.text.split("Rows that reached each stage")[1].split("Clips by the rule")[0])
    assert drawn.startswith(" videos 10 probe 10 1 failed: BadInput")
    assert "clips in shots 30 frames 30 1 refused before it, 2 failed: BadInput ×2" in drawn
    assert "caption 15 13 refused before it" in drawn
    assert drawn.endswith("samples 3 10 % of the clips, 4 subjects ")


def test_costs_are_at_the_runs_own_prices(dataset: Store) -> None:
    stages = (stage("caption", 1, cpu_seconds=36.0, gpu_seconds=7.2), stage("encode", 1, cpu_seconds=3.6))
    run = run_of(dataset, stages=stages, config={"prices": {"cpu_hour": 1, "gpu_hour": 100}})
    assert costs(run) == {"caption": pytest.approx(0.01 + 0.2), "encode": pytest.approx(0.001)}
    assert costs(run.model_copy(update={"config": {"prices": {"cpu_hour": "much"}}})) == {}


def test_what_a_stage_took_is_said(dataset: Store) -> None:
    took = Quantiles(p50=0.0123, p90=0.5, p99=12.2, max=307.0)
    slow = stage("caption", 8, seconds=16.0, cpu_seconds=90.0, gpu_seconds=8.0, bytes=4_100_000, row_seconds=took)
    idle = stage("encode", 0)
    page = rewrite(dataset, stages=(slow, idle), measuring_s=45.0, cost=0.0042)
    table = page.text.split("Time a row took")[1].split("Numbers")[0]
    rows = [line.split() for line in table.splitlines()]
    text = " ".join(word for row in rows for word in row)
    assert "caption" in text
    for words in ("12 ms", "0.5 s", "12 s", "5:07 min", "16.0 s", "1:30 min", "8.0 s", "4.1 MB"):
        assert words in table
    assert "Measuring took 45.0 s of 12.5 s, with 2 cores and 0.178 GPUs at work on average" in text
    assert "cost 0.0042" in text
    assert "encode04" in text  # nothing measured, four stored


def test_errors_are_counted_by_class_and_rows_are_named(dataset: Store) -> None:
    def failed(number: int, error: str) -> Quarantined:
        return Quarantined(
            id=f"row{number}", stage="frames", error=error, message=f"m{number}", attempts=1, source_names=("a.mp4",)
        )

    rows = [failed(1, "<b>Hostile</b>"), *(failed(n, "RowTimeout") for n in range(2, 5))]
    with dataset.open_output("quarantine.parquet") as stream:
        pq.write_table(pa.Table.from_pylist([row.model_dump() for row in rows]), stream)
    report = write_report(dataset)
    assert [(e.stage, e.error, e.rows, e.example) for e in report.errors] == [
        ("frames", "RowTimeout", 3, "m2"),
        ("frames", "<b>Hostile</b>", 1, "m1"),
    ]
    page = Page(dataset.read("report.html").decode())
    assert page.text.count("<b>Hostile</b>") == 2  # as words, in both tables
    assert all(f"row{number}" in page.text for number in range(1, 5))


def test_provenance_names_prompt_and_parameters(dataset: Store, scenes: list[Scene]) -> None:
    made = StageProvenance(
        stage="caption",
        version=3,
        fingerprint="5f1e",
        model="Qwen2.5-VL",
        revision="cc59",
        prompt="9f86d081884c7d65",
        parameters={"temperature": 0.1, "words": ["<script>alert(6)</script>"], "mode": "json"},
    )
    tally = Tally()
    pair = scenes[0].pair
    tally.add(pair.model_copy(update={"provenance": pair.provenance.model_copy(update={"stages": (made,)})}), ())
    report = write_report(dataset).model_copy(update={"statistics": tally.result()})
    page = Page(render(report, (), ()))
    text = page.text.split("Provenance")[-1]
    for words in ("cc59", "9f86d081884c7d65", "temperature 0.1", 'words ["<script>alert(6)</script>"]', "mode json"):
        assert words in text
    assert "script" not in {tag for tag, _ in page.elements}


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (812, "812 B"), (4096, "4.1 kB"), (34_900_000, "35 MB"), (999_600, "1.0 MB")]
)
def test_sizes(dataset: Store, size: int, said: str) -> None:
    page = rewrite(dataset, stages=(stage("probe", 1, bytes=size),))
    assert f"of GPU, {said} stored" in page.text


def test_the_policy_admits_our_style_and_nothing_else(dataset: Store) -> None:
    write_report(dataset)
    html = dataset.read("report.html").decode()
    style = html.split("<style>")[1].split("</style>")[0]
    policy = next(
        attributes["content"]
        for tag, attributes in Page(html).elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style


def test_phrases_and_masks_share_entities(dataset: Store) -> None:
    write_report(dataset)
    html = dataset.read("report.html").decode()
    article = html.split('id="s-two_people"')[1].split("</article>")[0]
    for entity in ("s0.face", "s0.a0", "s1.a2"):
        assert article.count(f'data-e="{entity}"') >= 3  # in the caption, over the still and among the references
    phrase = re.search(r'<span class="phrase c-s1" data-e="s1.a0"[^>]*>([^<]*)</span>', article)
    assert phrase is not None
    assert phrase[1] == "dark uniform"


def test_damage_is_named_and_the_rest_is_shown(dataset: Store) -> None:
    name = "shards/train-2s-00000.tar"
    dataset.write(name, dataset.read(name)[:700])
    report = write_report(dataset)
    assert report.statistics.samples == 2
    assert len(report.statistics.unreadable) == 1
    assert "two_people" in report.statistics.unreadable[0]
    page = Page(dataset.read("report.html").decode())
    assert "two_people.json" in page.text
    assert sum(tag == "article" for tag, _ in page.elements) == 2


def test_the_limit_is_kept_and_failures_come_first(dataset: Store) -> None:
    strict = AuditSettings(limits=CheckLimits(face_px=75), worst=1)  # only a face of two_people is smaller
    write_report(dataset, strict, others=1)
    html = dataset.read("report.html").decode()
    shown = re.findall(r'<article class="sample" id="s-([a-z_]+)"', html)
    assert shown == ["two_people", "one_person"]
    assert "its short side has 73 pixels (at least 75)" in html


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0.0 s"), (59.94, "59.9 s"), (284, "4:44 min"), (3599.6, "1:00 h"), (11_100, "3:05 h")]
)
def test_times_are_said_as_people_say_them(dataset: Store, seconds: float, said: str) -> None:
    run = RunSummary.from_json(dataset.read("measurements/run.json")).model_copy(update={"wall_s": seconds})
    dataset.write("measurements/run.json", run.to_json().encode())
    write_report(dataset, others=1)
    assert f'<b class="">{said}</b>' in dataset.read("report.html").decode()


def test_what_auditors_found_stands_in_the_report(dataset: Store) -> None:
    assert write_report(dataset, others=1).audit is None
    assert 'id="audit"' not in dataset.read("report.html").decode()
    with dataset.open_input("risk.parquet") as stream:
        ranked = pq.read_table(stream).sort_by("random_rank")["key"].to_pylist()
    hostile = "<b>eve</b>"
    with EventLog.of(dataset) as log:
        log.append(hostile, ranked[0], Verdict(verdict="reject", reasons=("swap",)))
        log.append("zoë", ranked[0], Verdict(verdict="reject"))
        log.append("zoë", ranked[1], Verdict(verdict="accept"))
    audit = write_report(dataset, others=1).audit
    assert audit is not None
    assert audit.estimate is not None
    assert (audit.estimate.judged, audit.estimate.wrong, audit.decision) == (2, 1, "continue")
    page = Page(dataset.read("report.html").decode())
    text = re.sub(r"\s+", " ", page.text)
    assert "50.0 % 1.3 to 98.7 %, Clopper–Pearson at 95 %" in text
    assert "Look at 132 samples of the random stratum and accept with at most 3 wrong" in text
    assert hostile in text
    assert Report.from_json(dataset.read("report.json")).audit == audit


def test_stored_findings_are_used(dataset: Store) -> None:
    """No shard is read for checking again: what stands in checks.parquet stands in the report."""
    check_dataset(dataset, AuditSettings(limits=CheckLimits(face_px=500)))
    report = write_report(dataset, others=1)
    sizes = next(tally for tally in report.statistics.checks if tally.check == "face_size")
    assert (sizes.checked, sizes.failed) == (4, 4)


def test_an_empty_dataset_and_none_at_all(tmp_path) -> None:
    out = Store.at(tmp_path)
    with pytest.raises(StoreError, match=r"index\.parquet"):
        write_report(out)
    with out.open_output("index.parquet") as stream:
        write_index(stream, [])
    report = write_report(out)
    assert report.statistics.samples == 0
    assert report.run is None
    assert "There is no sample." in out.read("report.html").decode()
