"""Pictures of the audit page for the docs, in Chromium: `python tests/audit/browser/screenshots.py demo/shards docs`.

The dataset is copied, so nothing that is done here stays in it. The statistics are those of drawn samples that three
made-up auditors have judged.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import audit_samples
from audit_site import served
from dataengine.audit.checking import check_dataset
from dataengine.audit.desk import Desk
from dataengine.audit.events import Verdict
from dataengine.config import AuditSettings
from dataengine.shards.assembly import Member
from dataengine.shards.index import write_index
from dataengine.shards.writer import write_shard
from dataengine.store import Store
from pipelines.audit import aids_of, stored_cuts

SIZE = {"width": 1280, "height": 720}
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


def drawn(out: Store, samples: int = 220) -> None:
    """A dataset of drawn samples without clips: the statistics show no pictures."""
    scenes = [audit_samples.sample(seed) for seed in range(samples)]
    with out.open_output("shards/train-2s-00000.tar") as stream:
        made = (
            (s.pair, [Member("json", s.pair.to_json().encode()), *(Member(*item) for item in s.members.items())])
            for s in scenes
        )
        rows = write_shard(stream, "train-2s-00000.tar", made)
    with out.open_output("index.parquet") as stream:
        write_index(stream, rows)


def judge(desk: Desk) -> None:
    """Three auditors, each with an eye of their own, on the random stratum and what was planted in it."""
    draw = random.Random(3)
    catalog = desk.edition().catalog
    positions = {catalog.place(position).key: position for position in range(len(catalog))}
    stratum = [positions[one.key] for one in catalog.drawn()[:118]]
    planted = [position for position in positions.values() if catalog.place(position).planted]
    wrong = set(draw.sample(stratum, 2))
    for auditor, share, eye in (("mia", 1.0, 0.97), ("noa", 0.55, 0.93), ("ren", 0.3, 0.8)):
        for position in stratum[: round(len(stratum) * share)] + planted[:12]:
            is_wrong = position in wrong or position in planted
            says = is_wrong if draw.random() < eye or not is_wrong else not is_wrong
            verdict = Verdict(verdict="reject", reasons=("swap",)) if says else Verdict(verdict="accept")
            desk.log.append(auditor, catalog.place(position).key, verdict)


def page_of(browser: Browser, dark: bool = False) -> Page:
    context = browser.new_context(viewport=SIZE, color_scheme="dark" if dark else "light", device_scale_factor=1.5)
    context.add_init_script("localStorage.setItem('dataengine.auditor', 'mia')")
    return context.new_page()


def shoot(page: Page, folder: Path, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").save(folder / f"audit_{name}.webp", "WEBP", quality=78, method=6)


def main() -> None:
    demo, folder = Path(sys.argv[1]), Path(sys.argv[2])
    if not (demo / "index.parquet").is_file():
        raise SystemExit(f"{demo} holds no dataset: run `make demo` first")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        copied, counted = Store.at(Path(temporary) / "demo/shards"), Store.at(Path(temporary) / "drawn/shards")
        shutil.copytree(demo, copied.uri, ignore=shutil.ignore_patterns("audit"))
        settings = AuditSettings(honeypots=0)
        check_dataset(copied, settings, aids_of(settings))
        desk = Desk.open(copied, settings, aids=aids_of(settings), cuts_of=stored_cuts(copied))
        with served(desk) as address:
            pictures_of_samples(browser, address, desk, folder)
        drawn(counted)
        desk = Desk.open(counted, AuditSettings(honeypots=0.06))
        judge(desk)
        with served(desk) as address:
            page = page_of(browser)
            page.goto(f"{address}/?view=statistics")
            shoot(page, folder, "statistics")
        browser.close()


def pictures_of_samples(browser: Browser, address: str, desk: Desk, folder: Path) -> None:
    def seen_at_once(position: int) -> int:
        stills = [reference.still for reference in desk.edition().media.pair(position).references]
        return max(stills.count(still) for still in stills)

    two = max(range(len(desk.edition().catalog)), key=seen_at_once)
    page = page_of(browser)
    page.goto(f"{address}/?sample={two}")
    shoot(page, folder, "sample")
    page.locator("button.card[data-entity$='.a0']").first.click()
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_selector(".history li")
    shoot(page, folder, "repair")
    page.keyboard.press("?")
    shoot(page, folder, "keys")
    page.keyboard.press("Escape")
    page.keyboard.press("z")
    page.wait_for_selector(".history", state="hidden")
    for key in ("Escape", "a", "1", "r", "a"):
        page.keyboard.press(key)
        page.wait_for_timeout(500)
    page.goto(address)
    shoot(page, folder, "list")
    dark = page_of(browser, dark=True)
    dark.goto(f"{address}/?sample={two}&entity=s0.face")
    shoot(dark, folder, "dark")


if __name__ == "__main__":
    main()
