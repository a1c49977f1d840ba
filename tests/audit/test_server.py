from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from fastapi.testclient import TestClient

from dataengine.audit import palette
from dataengine.audit.desk import Desk
from dataengine.audit.events import LogUnavailable
from dataengine.audit.media_routes import byte_range
from dataengine.audit.scene import Scene
from dataengine.audit.security import CSRF_HEADER
from dataengine.audit.server import create_app, page_files
from dataengine.config import AuditSettings
from dataengine.store import Store

TWO = 2


@pytest.fixture
def desk(dataset: Store) -> Desk:
    return Desk.open(dataset, AuditSettings(honeypots=0))


@pytest.fixture
def client(desk: Desk) -> Iterator[TestClient]:
    with TestClient(create_app(desk), base_url="http://127.0.0.1:8780", raise_server_exceptions=False) as client:
        yield client


def act(client: TestClient, action: dict, position: int = TWO, auditor: str = "mia", **changes):
    session = client.get("/api/session").json()
    body = {"generation": session["generation"], "auditor": auditor, "action": action} | changes
    return client.post(f"/api/samples/{position}/events", json=body, headers={CSRF_HEADER: session["csrf"]})


def media(client: TestClient, what: str, position: int = TWO, **more):
    generation = client.get("/api/session").json()["generation"]
    return client.get(f"/media/{generation}/{position}/{what}", **more)


ACCEPT = {"type": "verdict", "verdict": "accept"}


def test_a_session_tells_what_a_page_needs(client: TestClient) -> None:
    session = client.get("/api/session").json()
    assert session["samples"] == 3
    assert session["checked"] is False
    assert [facet["value"] for facet in session["facets"]["subjects"]] == ["1", "2"]
    assert {check["name"] for check in session["checks"]} >= {"swap_alarm", "phrase_at_span"}


def test_lists_are_filtered_and_know_verdicts(client: TestClient) -> None:
    assert act(client, ACCEPT).status_code == 200
    assert act(client, {"type": "verdict", "verdict": "reject"}, auditor="noa").status_code == 200
    rows = client.get("/api/samples", params={"me": "mia", "sort": "index"}).json()["rows"]
    assert [row["verdict"] for row in rows] == [None, None, "accept"]
    assert [row["others"] for row in rows] == [0, 0, 1]
    found = client.get("/api/samples", params={"search": "coffee", "subjects": 2}).json()
    assert [row["key"] for row in found["rows"]] == ["two_people"]
    beside = client.get("/api/samples/0/neighbours", params={"sort": "index", "me": "mia", "skip_decided": True}).json()
    assert beside == {"previous": None, "next": 1, "rank": 0, "total": 3}


@pytest.mark.parametrize(
    ("address", "params"),
    [
        ("/api/samples", {"sort": "key; DROP TABLE samples"}),
        ("/api/samples", {"limit": 100_000}),
        ("/api/samples", {"offset": -1}),
        ("/api/samples", {"nonsense": 1}),
        ("/api/samples", {"search": "x" * 201}),
        ("/api/samples/x", {}),
        ("/api/samples/-1", {}),
        ("/api/samples/99999999999999999999", {}),
        ("/api/samples/..%2f..%2fetc", {}),
    ],
)
def test_other_input_is_refused_with_what_to_do(client: TestClient, address: str, params: dict) -> None:
    answer = client.get(address, params=params)
    assert answer.status_code in (404, 422)
    assert set(answer.json()) == {"problem", "remedy"}


def test_what_is_not_there(client: TestClient) -> None:
    for answer in (
        client.get("/api/samples/7"),
        client.get("/api/samples/7/neighbours"),
        media(client, "thumb", 7),
        media(client, "references/99"),
        media(client, "masks/0"),
        client.get("/nothing"),
    ):
        assert answer.status_code == 404
        assert answer.json()["remedy"]
    assert media(client, "frames/9999").status_code == 422
    assert client.get("/media/1/0/thumb").status_code == 409, "another edition of the dataset"


@pytest.mark.parametrize(
    "name", ["../server.py", "..%2fserver.py", "%2e%2e/server.py", "index.html", "/etc/passwd", "x"]
)
def test_static_addresses_are_names_and_no_paths(client: TestClient, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


def test_the_page_loads_its_own_files_and_nothing_else(client: TestClient) -> None:
    page = client.get("/").text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert addresses
    for address in addresses:
        if address != "#main":
            assert client.get(address).status_code == 200, address
    ahead = set(re.findall(r'modulepreload" href="/static/([^"]+)"', page))
    assert ahead == {name for name in page_files() if name.endswith(".js")} - {"app.js"}
    assert not re.findall(r"<style|style=|<script(?![^>]*src=)|\son\w+=", page)
    sources = {name: data.decode() for name, data in page_files().items() if name.endswith((".js", ".css", ".html"))}
    for name, text in sources.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        outside = [a for a in re.findall(r"https?://[^\s\"'`)]+", text) if a != "http://www.w3.org/2000/svg"]
        assert not outside, name
        for imported in re.findall(r'from "\./([^"]+)"', text):
            assert imported in sources, (name, imported)
    for colour in palette.ALL:
        assert f".c-{colour.name} {{ --colour: {colour.fill};" in sources["palette.css"]


def test_files_that_a_browser_has_are_not_sent_again(client: TestClient) -> None:
    first = client.get("/static/app.js")
    again = client.get("/static/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/static/app.js", headers={"if-none-match": '"x"'}).status_code == 200


def test_a_decision_is_answered_when_it_is_in_the_log(client: TestClient, desk: Desk) -> None:
    done = act(client, {"type": "verdict", "verdict": "reject", "reasons": ["swap"], "note": "x"}).json()
    [event] = desk.log.events()
    assert done["event"] == event.id
    assert done["sample"]["state"]["verdict"] == "reject"


@pytest.mark.parametrize(
    "changes",
    [
        {"auditor": ""},
        {"auditor": "a" * 65},
        {"auditor": "\x00"},
        {"auditor": "\u202emia"},
        {"action": {"type": "verdict", "verdict": "perhaps"}},
        {"action": {"type": "verdict", "verdict": "reject", "reasons": ["made up"]}},
        {"action": {"type": "verdict", "verdict": "reject", "note": "n" * 2001}},
        {"action": {"type": "relabel", "entity": "s0.a0", "text": "a\u202eb"}},
        {"action": {"type": "relabel", "entity": "../../etc", "text": "x"}},
        {"action": {"type": "drop_table"}},
        {"action": {"type": "undo", "event": 0}},
        {"generation": "x"},
        {"more": 1},
    ],
)
def test_bodies_are_strict(client: TestClient, desk: Desk, changes: dict) -> None:
    answer = act(client, **({"action": ACCEPT} | changes))
    assert answer.status_code == 422
    assert set(answer.json()) == {"problem", "remedy"}
    assert desk.log.events() == ()


def test_writes_need_our_token(client: TestClient, desk: Desk) -> None:
    body = {"generation": 0, "auditor": "mia", "action": ACCEPT}
    assert client.post("/api/samples/0/events", json=body).status_code == 403
    assert desk.log.events() == ()


def test_refusals_say_why(client: TestClient) -> None:
    refused = act(client, {"type": "move_attribute", "entity": "s0.a0", "subject": 9})
    assert refused.status_code == 409
    assert "no subject s9" in refused.json()["problem"]
    stale = act(client, ACCEPT, generation=1)
    assert stale.status_code == 409
    assert "reload" in stale.json()["remedy"]
    assert act(client, ACCEPT, 9).status_code == 404


def test_a_log_that_cannot_be_written_is_told(client: TestClient, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise LogUnavailable("the disk is full")

    monkeypatch.setattr(desk.log, "append", full)
    answer = act(client, ACCEPT)
    assert answer.status_code == 503
    assert "the disk is full" in answer.json()["problem"]


def test_hostile_words_arrive_as_they_are(client: TestClient, scenes: list[Scene]) -> None:
    view = client.get("/api/samples/1")
    assert view.headers["content-type"] == "application/json"
    assert view.json()["caption"] == scenes[2].pair.caption[:20_000]
    assert "\x00" in view.json()["caption"]


def test_a_damaged_shard_shows_as_such_and_the_rest_works(client: TestClient, dataset: Store, desk: Desk) -> None:
    Path(dataset.path(f"shards/{desk.edition().catalog.index[TWO].shard}")).write_bytes(b"nothing")
    assert client.get(f"/api/samples/{TWO}").json()["problem"]
    assert media(client, "thumb").status_code == 422
    assert media(client, "clip").status_code == 422
    assert client.get("/api/samples").json()["total"] == 3
    assert media(client, "thumb", 0).status_code == 200


def test_pictures_may_be_kept_and_answers_not(client: TestClient) -> None:
    assert "max-age" in media(client, "frames/0").headers["cache-control"]
    assert client.get("/api/samples/0").headers["cache-control"] == "no-store"
    assert media(client, "frames/0").headers["content-type"] == "image/jpeg"
    assert media(client, "references/0").headers["content-type"] == "image/png"


def test_the_clip_comes_whole_and_in_ranges(client: TestClient, scenes: list[Scene]) -> None:
    mp4 = scenes[0].members["mp4"]
    whole = media(client, "clip")
    assert (whole.status_code, whole.content) == (200, mp4)
    assert whole.headers["accept-ranges"] == "bytes"
    part = media(client, "clip", headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, mp4[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(mp4)}"
    end = media(client, "clip", headers={"range": "bytes=-10"})
    assert end.content == mp4[-10:]
    nothing = media(client, "clip", headers={"range": f"bytes={len(mp4)}-"})
    assert nothing.status_code == 416
    assert nothing.headers["content-range"] == f"bytes */{len(mp4)}"


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, (0, 10)),
        ("bytes=0-", (0, 10)),
        ("bytes=3-5", (3, 6)),
        ("bytes=3-99", (3, 10)),
        ("bytes=-4", (6, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=10-", None),
        ("bytes=5-3", None),
        ("bytes=-0", None),
        ("bytes=0-1,4-5", (0, 10)),
        ("lines=1-2", (0, 10)),
        ("bytes=a-b", (0, 10)),
        ("bytes=" + "9" * 30 + "-", (0, 10)),
    ],
)
def test_ranges(header: str | None, span: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == span


def test_no_input_makes_the_server_fail(desk: Desk) -> None:
    """Every operation of the schema with generated input, good and bad: no 5xx, and nothing that is not documented."""
    app = create_app(desk)
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    headers = {CSRF_HEADER: app.state.access.csrf, "host": "127.0.0.1"}
    generation = desk.edition().number
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.status_code_conformance,
        schemathesis.checks.content_type_conformance,
        schemathesis.checks.response_schema_conformance,
    ]
    statuses: dict[str, set[int]] = {}

    def run(operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode) -> None:
        @hypothesis.settings(
            max_examples=5, phases=[hypothesis.Phase.generate], deadline=None, database=None, derandomize=True
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def once(case: schemathesis.Case) -> None:
            if mode.is_positive and "position" in case.path_parameters:
                case.path_parameters["position"] %= 4  # else none would ever be there
                if "generation" in case.path_parameters:
                    case.path_parameters["generation"] = generation
                if "number" in case.path_parameters:
                    case.path_parameters["number"] %= 8
            response = case.call(headers=headers, base_url="http://127.0.0.1")
            case.validate_response(response, checks=checks)
            statuses.setdefault(operation.label, set()).add(response.status_code)

        once()

    for result in schema.get_all_operations():
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            operation = result.ok()
            if mode.is_positive or operation.label not in (
                "GET /api/session",
                "GET /api/numbers",
            ):  # nothing to get wrong
                run(operation, mode)
    assert len(statuses) == 11
    assert all(200 in codes for label, codes in statuses.items() if label.startswith("GET")), statuses
