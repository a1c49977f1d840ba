"""A dataset, a server and a browser for the page's tests; all of them are started once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

import audit_samples
import audit_site
from dataengine.audit.desk import Desk
from dataengine.audit.scene import Scene
from dataengine.audit.security import Access
from dataengine.config import AuditSettings
from dataengine.records import Pair
from dataengine.shards.assembly import Member
from dataengine.shards.index import write_index
from dataengine.shards.writer import write_shard
from dataengine.store import Store

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SAMPLES = 9
HOSTILE = "hostile"


def chromium() -> str:
    """Where the browser is. Without one the tests are skipped, or fail where CI is set."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        why = "there is no Chromium: install it (apt-get install chromium) or set CHROMIUM to its path"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return found


def write(out: Store, samples: list[Scene]) -> None:
    """A dataset of these samples in one shard."""

    def members(scene: Scene) -> list[Member]:
        return [Member("json", scene.pair.to_json().encode()), *(Member(*item) for item in scene.members.items())]

    with out.open_output("shards/train-2s-00000.tar") as stream:
        rows = write_shard(stream, "train-2s-00000.tar", [(scene.pair, members(scene)) for scene in samples])
    with out.open_output("index.parquet") as stream:
        write_index(stream, rows)


def hostile(scene: Scene) -> Scene:
    """A sample whose words attack the page: markup, a mark that turns the line round, NUL, a very long caption."""
    pair = scene.pair
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> \u202egnp.exe \x00 "
    tail = " " + "long " * 200_000
    changed = pair.model_dump(mode="json")
    changed["caption"] = pair.caption + attack + tail
    changed["source_names"] = ["<svg onload=alert(1)>.mp4"]
    return Scene(type(pair).model_validate(changed), scene.members)


@dataclass
class Site:
    """The server under test: its address, its desk, and its dataset."""

    address: str
    desk: Desk
    out: Store
    access: Access

    def keys(self) -> list[str]:
        return [row.key for row in self.desk.edition().catalog.index]

    def position(self, key: str) -> int:
        return self.keys().index(key)

    def pair(self, key: str) -> Pair:
        return self.desk.edition().media.pair(self.position(key))

    def movable(self) -> str:
        """A sample in which s0.a0 may become the second subject's."""
        pairs = (self.pair(key) for key in self.keys())
        return next(p.key for p in pairs if p.subjects[0].attributes and len(p.subjects[1].attributes) < 3)

    def log(self, auditor: str | None = None) -> list[tuple[str, str]]:
        return [(event.key, event.action.type) for event in self.desk.log.events(auditor=auditor)]


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "dataset"
    samples = [audit_samples.sample(seed, people=2, clip=True, key=f"sample{seed}") for seed in range(SAMPLES - 1)]
    samples.append(hostile(audit_samples.sample(40, people=2, clip=True, key=HOSTILE)))
    write(Store.at(folder), samples)
    return folder


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@contextmanager
def served(desk: Desk) -> Iterator[Site]:
    """The page of a desk at a port of its own."""
    access = Access()
    with audit_site.served(desk, access) as address:
        yield Site(address, desk, desk.out, access)


@pytest.fixture(scope="package")
def server(built: Path) -> Iterator[Site]:
    """One server for the session; `site` gives each test a clean log."""
    with served(Desk.open(Store.at(built), AuditSettings(honeypots=0))) as site:
        yield site


@pytest.fixture
def site(server: Site) -> Site:
    """The server with an empty log."""
    desk = server.desk
    desk.log.close()
    shutil.rmtree(Path(server.out.path("audit")), ignore_errors=True)
    fresh = Desk.open(server.out, desk.settings)
    desk.log = fresh.log
    desk._edition = None
    return server


@dataclass
class User:
    """Somebody at the page."""

    page: Page
    site: Site
    errors: list[str]

    def open(self, where: str = "/") -> None:
        self.page.goto(self.site.address + where)
        expect(self.page.locator("main")).not_to_have_attribute("aria-busy", "true")

    def sample(self, key: str, more: str = "") -> None:
        position = self.site.position(key)
        self.open(f"/?sample={position}&sort=index{more}")
        self.at(key)

    def at(self, key: str) -> None:
        expect(self.page.locator(".sample-facts .key")).to_have_attribute("title", key)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def saved(self) -> None:
        expect(self.page.locator(".saved")).to_have_attribute("data-state", "saved")

    def card(self, entity: str):
        return self.page.locator(f'button.card[data-entity="{entity}"]')


@pytest.fixture
def visit(site: Site, browser: Browser):
    """`visit(name)`: somebody opens the page in a browser of their own."""
    contexts = []

    def enter(name: str | None = "mia") -> User:
        context = browser.new_context(viewport={"width": 1280, "height": 720}, reduced_motion="reduce")
        context.set_default_timeout(8000)
        contexts.append(context)
        if name is not None:
            context.add_init_script(f"localStorage.setItem('dataengine.auditor', {name!r})")
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))

        def answer(dialog: Dialog) -> None:
            if dialog.type != "beforeunload":
                errors.append(f"{dialog.type}: {dialog.message}")
            dialog.accept()

        page.on("dialog", answer)
        return User(page, site, errors)

    yield enter
    for context in contexts:
        context.close()
