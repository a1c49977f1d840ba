from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from dataengine.audit.checks import CheckLimits
from dataengine.audit.report import Report, write_report
from dataengine.records import RunSummary
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
    write_report(dataset, limit=2, limits=CheckLimits(face_px=75))  # only a face of two_people is smaller
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
    write_report(dataset, limit=1)
    assert f'<b class="">{said}</b>' in dataset.read("report.html").decode()


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
