"""The samples of a dataset as a table to filter, sort and page through: DuckDB in memory over its parquet files.

Every statement is constant text; whatever a client says is a bound parameter. Among the samples stand honeypots, which
look like the others; so a position is a place in this table and not in the index.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from dataengine.audit.checks import Finding
from dataengine.audit.estimate import Drawn, acceptance_plan
from dataengine.audit.honeypots import honeypots
from dataengine.audit.sampling import random_ranks
from dataengine.audit.tables import CHECKS, CHECKS_SCHEMA, RISK, RISK_SCHEMA
from dataengine.config import AuditSettings
from dataengine.records import Record
from dataengine.shards.index import SCHEMA as INDEX_SCHEMA
from dataengine.shards.index import Index
from dataengine.store import Store

Position = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A sample's place in the catalog: the only name of a sample that a client may give."""

AuditorName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$")]
VerdictName = Literal["accept", "reject", "unsure"]

_FROM_INDEX = [name for name in INDEX_SCHEMA.names if name not in ("shard", "clip_id", "members")]


class Query(BaseModel):
    """What to show and in which order. Empty text and None ask for nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: str = Field("", max_length=200, description="words of the caption; case does not matter")
    phrase: str = Field("", max_length=100, description="part of a phrase that is tied to an entity")
    source: str = Field("", max_length=64, description="id of the source video")
    split: Literal["", "train", "val"] = ""
    check: str = Field("", max_length=64, description="a check that failed; `any` is any of them, `none` none")
    subjects: int | None = Field(None, ge=0, le=99)
    risk_min: float = Field(0, ge=0, le=1)
    risk_max: float = Field(1, ge=0, le=1)
    verdict: Literal["", "accept", "reject", "unsure", "none", "any"] = Field(
        "", description="of `auditor`, or of anybody where that is empty; `none` is not decided yet"
    )
    auditor: str = Field("", max_length=64)
    queue: Literal["", "random"] = Field("", description="`random`: only the random stratum that error rates come from")
    me: str = Field("", max_length=64, description="who asks; somebody without a name is shown no honeypots")
    sort: Literal["risk", "index", "seconds", "face", "mask", "agreement", "subjects", "random"] = "risk"
    order: Literal["", "asc", "desc"] = Field("", description="empty: risk falls, everything else rises")

    @property
    def parameters(self) -> dict[str, Any]:
        """As `matching` takes them."""
        chosen = self.model_dump(exclude={"order"})
        falls = self.order == "desc" or (not self.order and self.sort == "risk")
        return chosen | {"search": self.search.lower(), "phrase": self.phrase.lower(), "sign": -1.0 if falls else 1.0}


class Row(NamedTuple):
    """A sample in a list. `caption` is its beginning only; a caption may have a megabyte."""

    position: int
    key: str
    caption: str
    split: str
    subjects: int
    attributes: int
    objects: int
    seconds: float
    width: int
    height: int
    face_px: float
    risk: float | None
    failed: list[str]


class Listing(NamedTuple):
    rows: list[Row]
    total: int


class Neighbours(NamedTuple):
    """Where a sample stands among those that a query chooses, counted from 0, and who stands beside it."""

    previous: int | None
    next: int | None
    rank: int
    total: int


class Decided(NamedTuple):
    """The verdict in force of one auditor on one sample."""

    position: int
    auditor: str
    verdict: VerdictName


class Facet(Record):
    """A value to filter by and how many samples have it."""

    value: str
    samples: int


class Facets(Record):
    splits: tuple[Facet, ...]
    subjects: tuple[Facet, ...]
    checks: tuple[Facet, ...] = Field(description="failed checks, most frequent first")
    sources: tuple[Facet, ...] = Field(description="the 200 with most samples")


class Place(NamedTuple):
    """What stands at a position: a row of the index, or a honeypot made of it."""

    key: str
    row: int
    planted: bool
    risk: float | None


_SETUP = """
CREATE TABLE samples AS
  SELECT p.position, p.key, p.index_row, p.planted, p.random_rank, i.* EXCLUDE (key, index_row), r.risk,
         coalesce(r.failed, []) AS failed
  FROM read_places p JOIN read_index i USING (index_row) LEFT JOIN read_risk r ON r.key = i.key ORDER BY p.position;
CREATE TABLE findings AS SELECT * FROM read_checks ORDER BY key;
CREATE TABLE decided (sample BIGINT, auditor VARCHAR, verdict VARCHAR, PRIMARY KEY (sample, auditor));

CREATE MACRO sort_value(s, sort, sign) AS sign * CASE sort
  WHEN 'risk' THEN coalesce(s.risk, -1) WHEN 'index' THEN s.position WHEN 'seconds' THEN s.seconds
  WHEN 'face' THEN s.face_px WHEN 'mask' THEN coalesce(s.mask_score, 2) WHEN 'agreement' THEN s.owner_share
  WHEN 'subjects' THEN s.subjects ELSE s.random_rank END;

CREATE MACRO has_verdict(place, who, what) AS EXISTS (
  SELECT 1 FROM decided d
  WHERE d.sample = place AND (who = '' OR d.auditor = who) AND (what = '' OR d.verdict = what));

CREATE MACRO matching(_search, _phrase, _source, _split, _check, _subjects, _risk_min, _risk_max, _verdict, _auditor,
                      _queue, _me, _stratum, _sort, _sign) AS TABLE
  SELECT s.position, sort_value(s, _sort, _sign) AS value FROM samples s
  WHERE (_search = '' OR contains(lower(s.caption), _search))
    AND (_phrase = '' OR len(list_filter(s.phrases, lambda p: contains(lower(p), _phrase))) > 0)
    AND (_source = '' OR s.source_id = _source)
    AND (_split = '' OR s.split = _split)
    AND (_check = '' OR (_check = 'any' AND len(s.failed) > 0) OR (_check = 'none' AND len(s.failed) = 0)
         OR list_contains(s.failed, _check))
    AND (_subjects IS NULL OR s.subjects = _subjects)
    AND coalesce(s.risk, 0) BETWEEN _risk_min AND _risk_max
    AND (_me <> '' OR NOT s.planted)
    AND (_queue = '' OR s.random_rank < _stratum)
    AND (_verdict = '' OR (_verdict = 'none' AND NOT has_verdict(s.position, _auditor, ''))
         OR (_verdict = 'any' AND has_verdict(s.position, _auditor, ''))
         OR (_verdict NOT IN ('none', 'any') AND has_verdict(s.position, _auditor, _verdict)));
"""

_MATCHING = """matching($search, $phrase, $source, $split, $check, $subjects, $risk_min, $risk_max, $verdict, $auditor,
                           $queue, $me, $stratum, $sort, $sign)"""

_PAGE = f"""
WITH found AS MATERIALIZED (SELECT position, value FROM {_MATCHING}),
     page AS (SELECT * FROM found ORDER BY value, position LIMIT $limit OFFSET $offset)
SELECT p.position, s.key, s.caption[1:400], s.split, s.subjects, s.attributes, s.objects, s.seconds, s.width, s.height,
       s.face_px, s.risk, s.failed, (SELECT count(*) FROM found)
FROM page p JOIN samples s ON s.position = p.position ORDER BY p.value, p.position
"""  # noqa: S608  (all parts are constants)

_TOTAL = f"SELECT count(*) FROM {_MATCHING}"  # noqa: S608

_NEIGHBOURS = f"""
WITH found AS MATERIALIZED (SELECT position, value FROM {_MATCHING}),
     here AS MATERIALIZED (SELECT sort_value(s, $sort, $sign) AS value FROM samples s WHERE s.position = $position),
     behind AS (SELECT found.* FROM found, here WHERE (found.value, found.position) > (here.value, $position)),
     before AS (SELECT found.* FROM found, here WHERE (found.value, found.position) < (here.value, $position))
SELECT (SELECT position FROM before WHERE $skip = '' OR NOT has_verdict(position, $skip, '')
        ORDER BY value DESC, position DESC LIMIT 1),
       (SELECT position FROM behind WHERE $skip = '' OR NOT has_verdict(position, $skip, '')
        ORDER BY value, position LIMIT 1),
       (SELECT count(*) FROM before), (SELECT count(*) FROM found)
"""  # noqa: S608


class Catalog:
    """The samples of one dataset as they stood when it was opened, and the verdicts in force that it is told of."""

    def __init__(self, index: Index, risk: pa.Table, checks: pa.Table, settings: AuditSettings | None = None) -> None:
        """`risk` and `checks` have the columns of `tables`, no rows where nothing was checked yet."""
        settings = settings or AuditSettings()
        self.index = index
        self.is_checked = risk.num_rows > 0
        self.stratum = acceptance_plan(settings.plan).samples
        numbers = pa.array(range(len(index)), pa.int64())
        # Names are looked up by DuckDB among the variables of this frame: only what is registered may be found.
        self._database = duckdb.connect(config={"threads": 2, "python_enable_replacements": False})
        tables = {
            "read_index": index.table.select(_FROM_INDEX).append_column("index_row", numbers),
            "read_places": _places(index, risk, settings),
            "read_risk": risk.select(["key", "risk", "failed"]),
            "read_checks": checks,
        }
        for name, table in tables.items():
            self._database.register(name, table)
        self._database.execute(_SETUP)
        for name in tables:
            self._database.unregister(name)
        self._size = tables["read_places"].num_rows

    @classmethod
    def open(cls, out: Store, settings: AuditSettings | None = None) -> Catalog:
        """The dataset at `out`. Raises `StoreError` without an index, `ValueError` for a table of another kind."""
        return cls(Index.read(out), _table(out, RISK, RISK_SCHEMA), _table(out, CHECKS, CHECKS_SCHEMA), settings)

    def __len__(self) -> int:
        """Positions there are, honeypots among them."""
        return self._size

    def place(self, position: int) -> Place:
        """Raises `IndexError`."""
        statement = "SELECT key, index_row, planted, risk FROM samples WHERE position = $position"
        found = self._all(statement, {"position": position})
        if not found:
            raise IndexError(f"there is no sample {position} among {len(self)}")
        return Place(*found[0])

    def drawn(self) -> list[Drawn]:
        """All samples of the dataset, no honeypots, in random order: what estimates are made from."""
        statement = "SELECT key, source_id FROM samples WHERE NOT planted ORDER BY random_rank"
        return [Drawn(*values) for values in self._all(statement, {})]

    def page(self, query: Query, limit: int, offset: int) -> Listing:
        """`limit` samples from the `offset`-th on, in the query's order; positions break ties."""
        parameters = self._asked(query) | {"limit": limit, "offset": offset}
        found = self._all(_PAGE, parameters)
        if found:
            return Listing([Row(*values[:-1]) for values in found], found[0][-1])
        return Listing([], self._all(_TOTAL, self._asked(query))[0][0])

    def neighbours(self, query: Query, position: int, skip_decided_by: str = "") -> Neighbours:
        """The samples before and behind `position`, which need not be among those chosen itself.

        With `skip_decided_by` both are the nearest ones without a verdict of that auditor.
        """
        parameters = self._asked(query) | {"position": position, "skip": skip_decided_by}
        return Neighbours(*self._all(_NEIGHBOURS, parameters)[0])

    def findings(self, key: str) -> list[Finding]:
        """What checks.parquet says of a sample."""
        statement = 'SELECT "check", entity, score, passed, reason FROM findings WHERE key = $key'
        names = ("check", "entity", "score", "passed", "reason")
        return [Finding(**dict(zip(names, values, strict=True))) for values in self._all(statement, {"key": key})]

    def positions(self, keys: Iterable[str]) -> dict[str, int]:
        """Where samples stand; keys that the dataset does not have are left out."""
        found = self._all(
            "SELECT key, position FROM samples WHERE list_contains($keys::VARCHAR[], key)", {"keys": list(keys)}
        )
        return dict(found)

    def set_decided(self, decided: Iterable[Decided], withdrawn: Iterable[tuple[int, str]]) -> None:
        """Take over verdicts that came into force, and those (position, auditor) that have none any more."""
        cursor = self._database.cursor()
        for verdict in decided:
            cursor.execute("INSERT OR REPLACE INTO decided VALUES ($position, $auditor, $verdict)", verdict._asdict())
        for position, auditor in withdrawn:
            cursor.execute("DELETE FROM decided WHERE sample = ? AND auditor = ?", [position, auditor])

    def decided(self, positions: Iterable[int]) -> list[Decided]:
        """The verdicts in force on some samples."""
        statement = "SELECT * FROM decided WHERE list_contains($positions::BIGINT[], sample) ORDER BY ALL"
        return [Decided(*values) for values in self._all(statement, {"positions": list(positions)})]

    @cached_property
    def facets(self) -> Facets:
        """What there is to filter by."""

        def counted(statement: str) -> tuple[Facet, ...]:
            return tuple(Facet(value=str(value), samples=samples) for value, samples in self._all(statement, {}))

        return Facets(
            splits=counted("SELECT split, count(*) FROM samples WHERE NOT planted GROUP BY 1 ORDER BY 1"),
            subjects=counted("SELECT subjects, count(*) FROM samples WHERE NOT planted GROUP BY 1 ORDER BY 1"),
            checks=counted(
                "SELECT unnest(failed), count(*) FROM samples WHERE NOT planted GROUP BY 1 ORDER BY 2 DESC, 1"
            ),
            sources=counted(
                "SELECT source_id, count(*) FROM samples WHERE NOT planted GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 200"
            ),
        )

    def _asked(self, query: Query) -> dict[str, Any]:
        return query.parameters | {"stratum": self.stratum}

    def _all(self, statement: str, parameters: Mapping[str, Any]) -> list[Any]:
        # A cursor each: DuckDB's connections are not for several threads at once.
        return self._database.cursor().execute(statement, dict(parameters)).fetchall()


def _places(index: Index, risk: pa.Table, settings: AuditSettings) -> pa.Table:
    """Every position: the samples in the order of the index, and honeypots at places that only the seed knows.

    A honeypot needs two attributes to exchange. Its random rank is drawn as well: beside its sample it would be known.
    """
    keys, total = index.table["key"].to_pylist(), len(index)
    if risk.num_rows:
        known = dict(zip(risk["key"].to_pylist(), risk["random_rank"].to_pylist(), strict=True))
        ranks = [float(known.get(key, total)) for key in keys]
    else:
        ranks = random_ranks(keys, index.table["source_id"].to_pylist(), settings.seed).astype(float).tolist()
    rows = [(float(number), key, number, False, ranks[number]) for number, key in enumerate(keys)]
    numbers = {key: number for number, key in enumerate(keys)}
    enough = [key for key, count in zip(keys, index.table["attributes"].to_pylist(), strict=True) if count > 1]
    for planted in honeypots(enough, settings.seed, settings.honeypots):
        draw = random.Random(f"{settings.seed} {planted.key}")
        rows.append((draw.uniform(0, total), planted.key, numbers[planted.of], True, draw.randrange(total) + 0.5))
    rows.sort()
    schema = pa.schema(
        [
            ("position", pa.int64()),
            ("key", pa.string()),
            ("index_row", pa.int64()),
            ("planted", pa.bool_()),
            ("random_rank", pa.float64()),
        ]
    )
    columns = [list(range(len(rows))), *([row[i] for row in rows] for i in range(1, 5))]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema)


def _table(out: Store, name: str, schema: pa.Schema) -> pa.Table:
    """A table that the checks left; an empty one where they did not run yet."""
    if not out.exists(name):
        return schema.empty_table()
    with out.open_input(name) as stream:
        try:
            return pq.read_table(stream, columns=schema.names).cast(schema)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise ValueError(f"{out.uri}/{name} cannot be read: {why}; run `dataengine audit check` again") from error
