"""The audit page's server: a FastAPI app over one dataset. Clients name samples by integers and nothing by a path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Request, Response
from fastapi import Query as InQuery
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from dataengine.audit import palette
from dataengine.audit.catalog import AuditorName, Facets, Position, Query, VerdictName
from dataengine.audit.checks import QUESTIONS
from dataengine.audit.desk import DatasetUnreadable, Desk, NoSuchSample, Rebuilt
from dataengine.audit.estimate import AuditNumbers
from dataengine.audit.events import Action, Auditor, EventRefused, LogUnavailable
from dataengine.audit.media_routes import Problem, media_routes
from dataengine.audit.repairs import RepairRefused
from dataengine.audit.scene import UnreadableSample
from dataengine.audit.security import Access, Guard
from dataengine.audit.views import SampleView
from dataengine.audit.wording import visible
from dataengine.records import Record
from dataengine.store import StoreError

MAX_PAGE = 200
_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_TYPES |= {"woff2": "font/woff2", "svg": "image/svg+xml", "txt": "text/plain; charset=utf-8"}


class CheckView(Record):
    name: str
    question: str = Field(description="what holds when it passes")


class SessionView(Record):
    """What a page needs before it shows anything."""

    csrf: str = Field(description="goes into the header X-CSRF-Token of every write")
    generation: int = Field(description="of the dataset: positions hold for it alone")
    dataset: str
    samples: int
    checked: bool = Field(description="whether `dataengine audit check` has left its tables")
    facets: Facets
    checks: tuple[CheckView, ...]
    auditors: tuple[str, ...]
    colours: tuple[str, ...] = Field(description="classes of the palette")


class VerdictView(Record):
    auditor: str
    verdict: VerdictName


class RowView(Record):
    """A sample in a list."""

    position: int
    key: str
    caption: str = Field(description="its beginning")
    split: str
    subjects: int
    attributes: int
    objects: int
    seconds: float
    width: int
    height: int
    face_px: float
    risk: float | None
    failed: tuple[str, ...]
    verdict: VerdictName | None = Field(description="the asking auditor's")
    others: int = Field(description="auditors beside the asking one who have decided")


class ListView(Record):
    generation: int
    total: int
    offset: int
    rows: tuple[RowView, ...]


class NeighboursView(Record):
    previous: int | None
    next: int | None
    rank: int = Field(description="samples before this one")
    total: int


class ListQuery(Query):
    """A page of a list."""

    limit: int = Field(24, ge=1, le=MAX_PAGE)
    offset: int = Field(0, ge=0, le=2**31 - 1)

    @property
    def parameters(self) -> dict[str, Any]:
        return {name: value for name, value in super().parameters.items() if name not in ("limit", "offset")}


class NeighboursQuery(Query):
    """What stands beside a sample."""

    skip_decided: bool = Field(False, description="pass over what `me` has decided")

    @property
    def parameters(self) -> dict[str, Any]:
        return {name: value for name, value in super().parameters.items() if name != "skip_decided"}


class Act(BaseModel):
    """Something an auditor does to a sample."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generation: int = Field(ge=0, le=2**31 - 1)
    auditor: Auditor
    action: Action


class Done(Record):
    """It is in the log."""

    event: int
    at: AwareDatetime
    sample: SampleView


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 403, 404, 405, 409, 413, 415, 416, 421, 422, 503)
}
_ERRORS: tuple[tuple[type[Exception], int, str], ...] = (
    (NoSuchSample, 404, "take a position of the list; after a rebuild, reload the page"),
    (Rebuilt, 409, "reload the page"),
    (RepairRefused, 409, "repair it another way, or reject the sample"),
    (EventRefused, 409, "reload the sample and do it again"),
    (UnreadableSample, 422, "the rest of the dataset works; `dataengine validate` lists all damage"),
    (LogUnavailable, 503, "nothing was recorded; it is sent again by itself"),
    (StoreError, 503, "see that the dataset's folder is there and can be read"),
    (DatasetUnreadable, 503, "build the dataset again"),
)


def create_app(desk: Desk, access: Access | None = None) -> FastAPI:
    """The app for one dataset. `access` None: loopback only, no token."""
    rules = access or Access()
    app = FastAPI(title="dataengine audit", version="1", docs_url=None, redoc_url=None, responses=_PROBLEMS)
    app.state.access = rules
    for kind, status, remedy in _ERRORS:
        app.add_exception_handler(kind, _handler(status, remedy))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unknown)
    _add_data(app, desk, rules)
    app.include_router(media_routes(desk))
    _add_page(app)
    app.add_middleware(Guard, access=rules)
    return app


def _add_data(app: FastAPI, desk: Desk, rules: Access) -> None:
    questions = tuple(CheckView(name=name, question=question) for name, question in QUESTIONS.items())

    @app.get("/api/session")
    def session() -> SessionView:
        edition = desk.edition()
        return SessionView(
            csrf=rules.csrf,
            generation=edition.number,
            dataset=visible("/".join(desk.out.uri.rstrip("/").split("/")[-2:])),
            samples=len(edition.catalog.index),
            checked=edition.catalog.is_checked,
            facets=edition.catalog.facets,
            checks=questions,
            auditors=tuple(desk.auditors()),
            colours=tuple(colour.name for colour in palette.ALL),
        )

    @app.get("/api/samples")
    def samples(query: Annotated[ListQuery, InQuery()]) -> ListView:
        edition = desk.edition()
        found = edition.catalog.page(query, query.limit, query.offset)
        mine: dict[int, VerdictName] = {}
        others: dict[int, int] = {}
        for decided in edition.catalog.decided(row.position for row in found.rows):
            if decided.auditor == query.me:
                mine[decided.position] = decided.verdict
            else:
                others[decided.position] = others.get(decided.position, 0) + 1
        rows = (
            RowView(
                **row._asdict() | {"caption": row.caption},
                verdict=mine.get(row.position),
                others=others.get(row.position, 0),
            )
            for row in found.rows
        )
        return ListView(generation=edition.number, total=found.total, offset=query.offset, rows=tuple(rows))

    @app.get("/api/samples/{position}")
    def sample(
        position: Annotated[Position, Path()], me: Annotated[AuditorName | None, InQuery()] = None
    ) -> SampleView:
        return desk.view(position, me or "")

    @app.get("/api/samples/{position}/neighbours")
    def neighbours(
        position: Annotated[Position, Path()], query: Annotated[NeighboursQuery, InQuery()]
    ) -> NeighboursView:
        edition = desk.edition()
        edition.place(position)
        skip = query.me if query.skip_decided else ""
        return NeighboursView(**edition.catalog.neighbours(query, position, skip)._asdict())

    @app.get("/api/numbers")
    def numbers() -> AuditNumbers:
        """What all verdicts together say of the dataset and of the auditors."""
        return desk.numbers()

    @app.post("/api/samples/{position}/events")
    def act(
        position: Annotated[Position, Path()],
        body: Act,
        x_csrf_token: Annotated[str, Header(max_length=100, description="from /api/session")],
    ) -> Done:
        event, view = desk.act(position, body.generation, body.auditor, body.action)
        return Done(event=event.id, at=event.at, sample=view)


def _add_page(app: FastAPI) -> None:
    # Read once: an address is looked up among these names and never becomes a path.
    files = page_files()
    tags = {name: f'"{hashlib.sha256(data).hexdigest()[:24]}"' for name, data in files.items()}

    def file(name: str, known: str | None) -> Response:
        """A file of the page, unless the browser has it as it is."""
        headers = {"cache-control": "no-cache", "etag": tags[name]}
        if known == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(files[name], media_type=_TYPES[name.rsplit(".", 1)[-1]], headers=headers)

    @app.get("/", include_in_schema=False)
    def page(if_none_match: Annotated[str | None, Header()] = None) -> Response:
        return file("index.html", if_none_match)

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
        if name not in files or name == "index.html":
            raise HTTPException(404)
        return file(name, if_none_match)


def page_files() -> Mapping[str, bytes]:
    """The page's files by name, the palette's style sheet among them."""
    folder = resources.files("dataengine.audit") / "static"
    files = {item.name: item.read_bytes() for item in folder.iterdir() if item.name.rsplit(".", 1)[-1] in _TYPES}
    rules = (f".c-{c.name} {{ --colour: {c.fill}; --on-colour: {c.ink}; }}\n" for c in palette.ALL)
    files["palette.css"] = "".join(rules).encode()
    return files


def _handler(status: int, remedy: str) -> Any:
    async def handle(request: Request, error: Exception) -> JSONResponse:
        return _problem(status, str(error), remedy)

    return handle


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()[:3]]
    return _problem(422, "; ".join(told), "see /openapi.json for what is expected")


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return _problem(error.status_code, str(error.detail), "see /openapi.json for the addresses there are", headers)


def _problem(status: int, problem: str, remedy: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"problem": visible(problem[:2000]), "remedy": remedy}, status, headers)
