"""The page as people use it: a real browser, a real server, a real log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

import audit_page_cpu
from dataengine.audit.apply import apply_events
from dataengine.audit.desk import Desk
from dataengine.audit.events import stored_events
from dataengine.config import AuditSettings
from dataengine.shards.reader import PairDataset
from dataengine.store import Store

from .conftest import HOSTILE, SAMPLES, User, served


def test_accept_reject_undo_reload(visit) -> None:
    mia: User = visit()
    mia.sample("sample0")
    mia.press("a")
    mia.at("sample1")  # goes on by itself
    mia.press("1", "4", "r")
    mia.at("sample2")
    mia.saved()
    assert mia.site.log() == [("sample0", "verdict"), ("sample1", "verdict")]
    assert mia.site.desk.log.events()[1].action.reasons == ("swap", "wrong_identity")
    mia.press("z")
    mia.at("sample1")  # back to what is undone
    expect(mia.page.locator(".verdict[aria-pressed=true]")).to_have_count(0)
    mia.page.reload()
    mia.at("sample1")
    expect(mia.page.locator(".verdict[aria-pressed=true]")).to_have_count(0)
    mia.press("k")
    mia.at("sample1")  # what is decided is passed over: sample0 is, and nothing is before it
    mia.page.get_by_label("skip decided").uncheck()
    mia.press("k")
    mia.at("sample0")
    expect(mia.page.locator(".verdict.accept")).to_have_attribute("aria-pressed", "true")
    assert mia.errors == []


def test_a_decision_survives_a_server_that_was_away(visit) -> None:
    mia: User = visit()
    mia.sample("sample0")
    mia.page.route("**/events", lambda route: route.abort())
    mia.press("a")
    expect(mia.page.locator(".saved")).to_have_text("1 not saved, trying again")
    assert mia.site.log() == []
    mia.page.unroute("**/events")
    mia.saved()
    assert mia.site.log() == [("sample0", "verdict")]


def test_what_was_not_saved_is_sent_after_a_reload(visit) -> None:
    mia: User = visit()
    mia.sample("sample0")
    mia.page.route("**/events", lambda route: route.abort())
    mia.press("r")
    expect(mia.page.locator(".saved")).to_have_attribute("data-state", "waiting")
    mia.page.on("dialog", lambda dialog: dialog.accept())
    mia.page.unroute("**/events")
    mia.page.reload()
    mia.saved()
    assert [key for key, _ in mia.site.log()] == ["sample0"], "once, whatever was sent again"


def test_a_server_that_was_started_again_takes_what_waits(visit) -> None:
    mia: User = visit()
    mia.sample("sample0")
    access = mia.site.access
    before = access.csrf
    object.__setattr__(access, "csrf", "the token of the next server")
    try:
        mia.press("a")
        mia.at("sample1")
        mia.saved()
    finally:
        object.__setattr__(access, "csrf", before)
    assert mia.site.log() == [("sample0", "verdict")]
    assert mia.errors == []


def test_drag_repair_apply_reopen(visit, tmp_path: Path) -> None:
    mia: User = visit()
    key = mia.site.movable()
    pair = mia.site.pair(key)
    text = pair.subjects[0].attributes[0].phrase.text
    new = f"s1.a{len(pair.subjects[1].attributes)}"
    mia.sample(key)
    mia.card("s0.a0").drag_to(mia.page.locator('[data-subject="1"] h3'))
    expect(mia.card(new).locator(".label")).to_have_text(text)
    expect(mia.card("s0.a0")).to_have_count(0)
    expect(mia.page.locator(".panel.bad li.failed", has_text="owner margin").first).to_be_visible()
    expect(mia.page.locator("tr.alarm")).to_have_count(1)
    expect(mia.page.locator(".history li")).to_have_text(re.compile("moved s0.a0 to s1"))
    mia.press("a")
    mia.saved()
    out2 = Store.at(tmp_path / "next")
    applied = apply_events(mia.site.out, out2, stored_events(mia.site.out))
    assert applied.counts["repaired"] == 1
    dataset = PairDataset(out2)
    done = dataset.find(key).pair
    assert [a.phrase.text for a in done.subjects[1].attributes] == [
        *(a.phrase.text for a in pair.subjects[1].attributes),
        text,
    ]
    assert len(done.subjects[0].attributes) == len(pair.subjects[0].attributes) - 1
    mia.sample(key)
    expect(mia.card(new)).to_be_visible()
    assert mia.errors == []


def test_repairs_by_keyboard(visit) -> None:
    """Choose, move, other words, another label, delete, undo: without a mouse."""
    mia: User = visit()
    mia.sample(mia.site.movable())
    mia.card("s0.a0").focus()
    mia.press("Enter")
    expect(mia.page.locator(".inspector")).to_contain_text("s0.a0")
    mia.press("Shift+ArrowRight")
    moved = mia.page.locator('[data-subject="1"] .focused button.card')
    expect(moved).to_have_count(1)
    expect(moved).to_be_focused()
    mia.press("Shift+ArrowLeft")
    expect(mia.page.locator('[data-subject="0"] .focused button.card')).to_be_focused()
    entity = mia.page.locator(".focused button.card").get_attribute("data-entity")
    mia.press("s", "ArrowLeft")
    expect(mia.page.locator(".choose-words q")).not_to_be_empty()
    mia.press("Escape")
    mia.press("e")
    expect(mia.page.locator(".rename input")).to_be_focused()
    mia.page.keyboard.type("very odd thing")
    mia.press("Enter")
    expect(mia.page.locator(".caption")).to_contain_text("very odd thing")
    expect(mia.card(entity).locator(".label")).to_have_text("very odd thing")
    mia.card(entity).focus()
    mia.press("Delete")
    expect(mia.card(entity)).to_have_count(0)
    mia.press("z")
    expect(mia.card(entity)).to_have_count(1)
    assert [kind for _, kind in mia.site.log()] == [
        "move_attribute",
        "move_attribute",
        "relabel",
        "delete_entity",
        "undo",
    ]
    assert mia.errors == []


def test_other_words_are_tied_by_selecting_them(visit) -> None:
    mia: User = visit()
    mia.sample("sample2")
    mia.card("s0.a0").click()
    phrase = mia.page.locator('.phrase[data-entity="s0.a0"]')
    words = phrase.inner_text()
    last = words.split()[-1]
    phrase.locator("span").evaluate(
        "(node, at) => getSelection().setBaseAndExtent(node.firstChild, at, node.firstChild, node.textContent.length)",
        len(words) - len(last),
    )
    tie = mia.page.locator(".choose-words button.primary")
    expect(tie).to_contain_text(last)
    tie.click()
    expect(mia.page.locator('.phrase[data-entity="s0.a0"]')).to_have_text(last)
    assert mia.site.log() == [("sample2", "respan")]


def test_keyboard_alone_from_the_name_to_the_verdict(visit) -> None:
    noa: User = visit(None)
    noa.open()
    expect(noa.page.locator("dialog.name input")).to_be_focused()
    noa.page.keyboard.type("noa")
    noa.press("Enter")
    expect(noa.page.locator("dialog")).to_have_count(0)
    expect(noa.page.locator(".who")).to_have_text("noa")
    expect(noa.page.locator(".tile")).to_have_count(SAMPLES)
    noa.press("ArrowRight", "ArrowRight", "Enter")
    expect(noa.page.locator(".single")).to_be_visible()
    noa.press("?")
    expect(noa.page.locator("dialog.help")).to_be_visible()
    noa.press("Escape")
    frame = noa.page.locator(".clock b").inner_text()
    noa.press(".")
    expect(noa.page.locator(".clock b")).not_to_have_text(frame)
    noa.press("m", "b", "l")
    expect(noa.page.locator(".stage .holder .tint, .stage .holder .box")).to_have_count(0)
    noa.press("a")
    noa.saved()
    noa.press("g")
    expect(noa.page.locator(".stamp.accept")).to_have_count(1)
    noa.press("/")
    expect(noa.page.locator("[name=search]")).to_be_focused()
    noa.page.keyboard.type("no such words")
    expect(noa.page.locator(".nothing")).to_be_visible()
    assert noa.site.log("noa") == noa.site.log()
    assert len(noa.site.log()) == 1
    assert noa.errors == []


def test_two_auditors_at_once(visit) -> None:
    mia: User = visit("mia")
    noa: User = visit("noa")
    mia.sample("sample0")
    noa.sample("sample0")
    mia.press("r")
    mia.at("sample1")
    mia.saved()
    noa.page.reload()
    noa.at("sample0")
    expect(noa.page.locator(".verdict[aria-pressed=true]")).to_have_count(0)
    expect(noa.page.locator(".sample-facts")).not_to_contain_text("mia")  # not before an own verdict
    noa.page.get_by_label("go on").uncheck()
    noa.press("a")
    expect(noa.page.locator(".sample-facts")).to_contain_text("mia: reject")
    noa.open("/?view=statistics")
    expect(noa.page.get_by_role("region", name="Agreement")).to_contain_text("mia and noa")
    noa.open("/?verdict=none&auditor=mia")
    expect(noa.page.locator(".summary")).to_contain_text(f"{SAMPLES - 1} of {SAMPLES}")


def test_permalinks_and_the_way_back(visit) -> None:
    mia: User = visit()
    mia.sample("sample3", "&entity=s1.a0&subjects=2")
    expect(mia.card("s1.a0")).to_have_attribute("aria-pressed", "true")
    expect(mia.page.locator(".filtered")).to_have_text("1 filter")
    mia.card("s0.face").click()
    expect(mia.page).to_have_url(re.compile("entity=s0.face"))
    mia.press("j")
    mia.at("sample4")
    mia.page.go_back()
    mia.at("sample3")
    expect(mia.card("s0.face")).to_have_attribute("aria-pressed", "true")
    mia.open(f"/?sample={mia.site.position('sample3')}&edition=5")
    expect(mia.page.locator(".notice")).to_contain_text("another build")
    mia.open("/?sample=999")
    expect(mia.page.locator(".notice.bad")).to_contain_text("no sample 999")


def test_finding_one_s_way_in_a_large_dataset(visit, tmp_path: Path) -> None:
    out = Store.at(tmp_path / "large")
    audit_page_cpu.generate(out, 3_010)
    with served(Desk.open(out, AuditSettings(honeypots=0))) as large:
        mia: User = visit()
        mia.site = large
        mia.open("/?sort=index")
        expect(mia.page.locator(".summary")).to_contain_text("3,010 samples")
        mia.press("]")
        expect(mia.page).to_have_url(re.compile("page=1"))
        mia.page.get_by_label("Page", exact=True).fill("126")
        mia.press("Enter")
        expect(mia.page.locator(".tile")).to_have_count(3_010 - 125 * 24)
        mia.page.locator(".tile a").last.click()
        expect(mia.page.locator(".rank")).to_have_text("3,010 of 3,010")
        expect(mia.page.get_by_label("Next sample")).to_be_disabled()
        mia.press("k")
        expect(mia.page.locator(".rank")).to_have_text("3,009 of 3,010")
        mia.open("/?check=swap_alarm&subjects=3&sort=seconds&order=desc")
        expect(mia.page.locator(".summary")).to_contain_text(re.compile(r"^\d{2,3} of 3,010 samples"))
        mia.page.locator(".tile a").first.click()
        expect(mia.page.locator(".rank")).to_have_text(re.compile("^1 of "))
        assert mia.errors == []


def test_hostile_words_stay_words(visit) -> None:
    mia: User = visit()
    mia.sample(HOSTILE)
    caption = mia.page.locator(".caption")
    expect(caption).to_contain_text("<img src=x onerror=")
    expect(caption).to_contain_text("⟨U+202E⟩")
    expect(caption).to_contain_text("⟨U+0000⟩")
    expect(caption).to_contain_text("more characters")
    assert mia.page.locator(".caption img, .caption script, main svg[onload]").count() == 0
    assert "owned" not in mia.page.title()
    mia.open("/?search=onerror")
    expect(mia.page.locator(".tile")).to_have_count(1)
    hostile = mia.page.evaluate(
        """async () => {
          const session = await (await fetch("/api/session")).json();
          const action = { type: "verdict", verdict: "reject", reasons: [], note: "<img src=x onerror=alert(1)>" };
          const body = JSON.stringify({ generation: session.generation, auditor: "<b>eve</b>", action });
          const headers = { "content-type": "application/json", "x-csrf-token": session.csrf };
          return (await fetch("/api/samples/0/events", { method: "POST", headers, body })).status;
        }"""
    )
    assert hostile == 200
    mia.open("/?view=statistics")
    expect(mia.page.get_by_role("region", name="Auditors")).to_contain_text("<b>eve</b>")
    assert mia.errors == []


def test_no_script_that_is_not_ours_runs(visit) -> None:
    mia: User = visit()
    mia.open()
    refused = mia.page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return '' } catch (error) { return error.message } }"
    )
    assert "TrustedHTML" in refused
    mia.page.evaluate(
        """() => {
          const script = document.createElement("script");
          try { script.text = "window.ran = 1" } catch {}
          document.body.append(script);
          try { setTimeout("window.ran = 2", 0) } catch {}
          const image = document.createElement("img");
          try { image.setAttribute("onerror", "window.ran = 3") } catch {}
          image.src = "/nothing";
          document.body.append(image);
        }"""
    )
    mia.page.wait_for_timeout(300)
    assert mia.page.evaluate("window.ran") is None


def test_damage_shows_and_the_rest_works(visit) -> None:
    mia: User = visit()
    row = mia.site.desk.edition().catalog.index[mia.site.position("sample5")]
    shard = Path(mia.site.out.path(f"shards/{row.shard}"))
    whole = shard.read_bytes()
    spoilt = bytearray(whole)
    for name in ("mp4", "s0.face.png"):
        at = row.member(name)
        spoilt[at.offset + at.size // 2] ^= 0x55
    shard.write_bytes(bytes(spoilt))
    try:
        mia.sample("sample5")
        expect(mia.card("s0.face")).to_contain_text("damaged")
        expect(mia.page.locator(".holder.broken")).to_be_visible()
        mia.press("r")
        mia.at("sample6")
        expect(mia.page.locator(".stage .holder image.frame")).to_have_attribute("href", re.compile("frames"))
        mia.saved()
    finally:
        shard.write_bytes(whole)


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080)])
def test_everything_needed_for_a_verdict_is_in_sight(visit, size: tuple[int, int]) -> None:
    mia: User = visit()
    mia.page.set_viewport_size({"width": size[0], "height": size[1]})
    mia.sample("sample0")
    for part in (".stage .holder", ".strip", ".caption", ".references .column >> nth=1", ".verdict.accept", ".undo"):
        box = mia.page.locator(part).first.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size[0]
        assert box["y"] + min(box["height"], 200) <= size[1], part
    assert mia.page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_what_a_screen_reader_is_told(visit) -> None:
    mia: User = visit()
    mia.sample("sample0")
    unnamed = mia.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a[href], summary")].filter((e) =>
          !e.getAttribute("aria-label") && !e.textContent.trim() && !e.labels?.length).map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    mia.press("a")
    expect(mia.page.locator("#said")).to_contain_text(re.compile("Accepted sample|Sample "))
    roles = mia.page.locator("main").aria_snapshot()
    for words in ('region "Caption"', 'region "References by subject"', 'group "Verdict"', 'slider "Frame"'):
        assert words in roles, words
