from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataengine.audit.catalog import Catalog, Decided, Place, Query
from dataengine.audit.estimate import acceptance_plan
from dataengine.audit.tables import CHECKS, CHECKS_SCHEMA, RISK, RISK_SCHEMA
from dataengine.config import AuditSettings, SamplingPlan
from dataengine.shards.index import SCHEMA as INDEX_SCHEMA
from dataengine.shards.index import Index
from dataengine.store import Store

ROWS = 60


def index(rows: int = ROWS) -> Index:
    captions = [
        f"A {('man', 'woman')[i % 2]} in a {('red hat', 'blue coat', 'green scarf')[i % 3]}, take {i}."
        for i in range(rows)
    ]
    member = [{"name": "mp4", "offset": 512, "size": 10, "sha256": ""}]
    columns = {
        "key": [f"key{i:04d}" for i in range(rows)],
        "split": ["val" if i % 10 == 0 else "train" for i in range(rows)],
        "subjects": [1 + i % 3 for i in range(rows)],
        "attributes": [i % 4 for i in range(rows)],
        "objects": [0] * rows,
        "background": [True] * rows,
        "shard": ["train-1s-00000.tar"] * rows,
        "clip_id": ["c"] * rows,
        "source_id": [f"source{i // 20}" for i in range(rows)],
        "caption": captions,
        "phrases": [[("man", "woman")[i % 2], ("red hat", "blue coat", "green scarf")[i % 3]] for i in range(rows)],
        "seconds": [1.0 + (i * 7) % rows for i in range(rows)],
        "width": [640] * rows,
        "height": [360] * rows,
        "pairing": ["in_clip"] * rows,
        "licence": [None] * rows,
        "face_px": [50.0 + i for i in range(rows)],
        "face_score": [0.9] * rows,
        "mask_score": [None if i % 5 == 0 else 0.8 for i in range(rows)],
        "owner_share": [1.0] * rows,
        "members": [member] * rows,
    }
    others = {name: [None] * rows for name in INDEX_SCHEMA.names if name not in columns}
    return Index(pa.table(columns | others, INDEX_SCHEMA))


def risk(rows: int = ROWS) -> pa.Table:
    return pa.table(
        {
            "key": [f"key{i:04d}" for i in reversed(range(rows))],
            "risk": [(i % 20) / 20 for i in reversed(range(rows))],
            "failed": [["swap", "face_size"][: i % 3] for i in reversed(range(rows))],
            "readable": [True] * rows,
            "random_rank": [(i * 37) % rows for i in reversed(range(rows))],
            "split": ["train"] * rows,
            "source_id": ["s"] * rows,
            "subjects": [1] * rows,
            "attributes": [1] * rows,
            "shard": ["x"] * rows,
        },
        RISK_SCHEMA,
    )


def settings(honeypots: float) -> AuditSettings:
    """A random stratum of ten samples."""
    plan = SamplingPlan(good_rate=0.1, accept_good=0.3, bad_rate=0.21, accept_bad=0.1)
    assert acceptance_plan(plan).samples == 10
    return AuditSettings(honeypots=honeypots, plan=plan)


@pytest.fixture
def catalog() -> Catalog:
    finding = [{"key": "key0003", "check": "swap", "entity": "s0.a0", "score": 0.1, "passed": False, "reason": "why"}]
    return Catalog(index(), risk(), pa.Table.from_pylist(finding, CHECKS_SCHEMA), settings(0))


def chosen(catalog: Catalog, **query) -> list[int]:
    return [row.position for row in catalog.page(Query(**query), 200, 0).rows]


def test_the_riskiest_come_first_and_places_break_ties(catalog: Catalog) -> None:
    listing = catalog.page(Query(), 5, 0)
    assert [row.position for row in listing.rows] == [19, 39, 59, 18, 38]
    assert listing.total == ROWS
    assert listing.rows[0].risk == pytest.approx(0.95)
    assert listing.rows[0].key == "key0019"


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"search": "RED HAT"}, lambda i: i % 3 == 0),
        ({"search": "woman in a blue"}, lambda i: i % 2 == 1 and i % 3 == 1),
        ({"phrase": "Scarf"}, lambda i: i % 3 == 2),
        ({"source": "source1"}, lambda i: 20 <= i < 40),
        ({"split": "val"}, lambda i: i % 10 == 0),
        ({"subjects": 2}, lambda i: i % 3 == 1),
        ({"check": "swap"}, lambda i: i % 3 > 0),
        ({"check": "face_size"}, lambda i: i % 3 == 2),
        ({"check": "any"}, lambda i: i % 3 > 0),
        ({"check": "none"}, lambda i: i % 3 == 0),
        ({"risk_min": 0.5, "risk_max": 0.6}, lambda i: 10 <= i % 20 <= 12),
        ({"queue": "random"}, lambda i: (i * 37) % ROWS < 10),
        ({"search": "take", "split": "train", "subjects": 1}, lambda i: i % 10 != 0 and i % 3 == 0),
    ],
)
def test_filters_choose(catalog: Catalog, query: dict, wanted) -> None:
    assert chosen(catalog, sort="index", **query) == [i for i in range(ROWS) if wanted(i)]


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("index", lambda i: i),
        ("seconds", lambda i: (i * 7) % ROWS),
        ("face", lambda i: i),
        ("mask", lambda i: (2 if i % 5 == 0 else 0.8, i)),
        ("subjects", lambda i: (i % 3, i)),
        ("random", lambda i: (i * 37) % ROWS),
    ],
)
def test_sorts_and_turns_round(catalog: Catalog, sort: str, key) -> None:
    ordered = sorted(range(ROWS), key=key)
    assert chosen(catalog, sort=sort) == ordered
    falling = chosen(catalog, sort=sort, order="desc")
    assert sorted(falling) == list(range(ROWS))
    assert falling != ordered


def test_pages_tile_the_list(catalog: Catalog) -> None:
    query = Query(split="train")
    pages = [catalog.page(query, 7, offset) for offset in range(0, ROWS, 7)]
    together = [row.position for page in pages for row in page.rows]
    assert together == chosen(catalog, split="train")
    assert {page.total for page in pages} == {54}, "also on a page behind the end"


def test_what_a_client_says_is_a_value_and_never_a_statement(catalog: Catalog) -> None:
    for text in ("'; DROP TABLE samples; --", "%", "_", "' OR '1'='1", "\\", "$search", "a' UNION SELECT 1 --"):
        for field in ("search", "phrase", "source", "check", "auditor"):
            query = Query(**{field: text}, verdict="accept" if field == "auditor" else "")
            assert catalog.page(query, 5, 0).total == 0, (field, text)
    assert catalog.page(Query(), 5, 0).total == ROWS


def test_neighbours_agree_with_the_list(catalog: Catalog) -> None:
    query = Query(subjects=2, sort="seconds", order="desc")
    order = chosen(catalog, subjects=2, sort="seconds", order="desc")
    for rank, position in enumerate(order):
        found = catalog.neighbours(query, position)
        assert found.rank == rank
        assert found.total == len(order)
        assert found.previous == (order[rank - 1] if rank else None)
        assert found.next == (order[rank + 1] if rank + 1 < len(order) else None)


def test_a_sample_outside_of_the_list_has_neighbours_in_it(catalog: Catalog) -> None:
    found = catalog.neighbours(Query(subjects=2, sort="index"), 2)
    assert (found.previous, found.next) == (1, 4)


def test_decided_ones_are_filtered_and_passed_over(catalog: Catalog) -> None:
    catalog.set_decided([Decided(1, "mia", "accept"), Decided(2, "mia", "reject"), Decided(1, "noa", "unsure")], [])
    assert chosen(catalog, sort="index", verdict="any", auditor="mia") == [1, 2]
    assert chosen(catalog, sort="index", verdict="accept") == [1]
    assert chosen(catalog, sort="index", verdict="reject", auditor="noa") == []
    assert chosen(catalog, sort="index", verdict="none", auditor="noa") == [0, *range(2, ROWS)]
    assert catalog.neighbours(Query(sort="index"), 0, skip_decided_by="mia").next == 3
    assert catalog.neighbours(Query(sort="index"), 0, skip_decided_by="noa").next == 2
    assert catalog.neighbours(Query(sort="index"), 3, skip_decided_by="mia").previous == 0
    assert catalog.decided([1, 2, 3]) == [
        Decided(1, "mia", "accept"),
        Decided(1, "noa", "unsure"),
        Decided(2, "mia", "reject"),
    ]
    catalog.set_decided([Decided(1, "mia", "reject")], [(2, "mia")])
    assert chosen(catalog, sort="index", verdict="any", auditor="mia") == [1]
    assert chosen(catalog, sort="index", verdict="accept", auditor="mia") == []


def test_facets_findings_and_places(catalog: Catalog) -> None:
    facets = catalog.facets
    assert {facet.value: facet.samples for facet in facets.checks} == {"swap": 40, "face_size": 20}
    assert {facet.value: facet.samples for facet in facets.splits} == {"train": 54, "val": 6}
    assert [facet.value for facet in facets.subjects] == ["1", "2", "3"]
    assert [finding.reason for finding in catalog.findings("key0003")] == ["why"]
    assert catalog.findings("key0004") == []
    assert catalog.positions(["key0007", "nobody's"]) == {"key0007": 7}
    assert catalog.place(19) == Place("key0019", 19, False, pytest.approx(0.95))
    with pytest.raises(IndexError, match="no sample 60"):
        catalog.place(ROWS)


def test_a_caption_of_a_megabyte_comes_cut() -> None:
    table = index(2).table
    long = pa.array(["long " * 200_000, "short"])
    catalog = Catalog(
        Index(table.set_column(table.schema.get_field_index("caption"), "caption", long)),
        RISK_SCHEMA.empty_table(),
        CHECKS_SCHEMA.empty_table(),
    )
    assert [len(row.caption) for row in catalog.page(Query(sort="index"), 5, 0).rows] == [400, 5]
    assert chosen(catalog, search="long long") == [0]


def test_before_the_checks_ran_there_is_a_list(dataset: Store) -> None:
    catalog = Catalog.open(dataset)
    assert not catalog.is_checked
    assert [row.risk for row in catalog.page(Query(), 9, 0).rows] == [None] * 3
    assert chosen(catalog, phrase="officer") == [1, 2]


def test_a_table_of_another_kind_is_refused_with_what_to_do(dataset: Store) -> None:
    with dataset.open_output(RISK) as stream:
        pq.write_table(pa.table({"key": ["a"]}), stream)
    with pytest.raises(ValueError, match=r"risk\.parquet cannot be read.*audit check"):
        Catalog.open(dataset)
    dataset.write(RISK, b"no parquet")
    with pytest.raises(ValueError, match="audit check"):
        Catalog.open(dataset)
    dataset.delete(RISK)
    dataset.write(CHECKS, b"PAR1")
    with pytest.raises(ValueError, match=r"checks\.parquet"):
        Catalog.open(dataset)
