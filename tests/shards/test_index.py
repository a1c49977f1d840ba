"""The index: sorted, typed, and the same whatever order its rows came in."""

import io
import itertools
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from dataengine.shards.index import Index, IndexRow, even_tables, join_indexes, read_member, write_index


def test_rows_round_trip_in_order(dataset):
    index = Index.read(dataset)
    rows = list(index)
    assert rows == [index[i] for i in range(len(index))]
    assert [(r.shard, r.members[0].offset) for r in rows] == sorted((r.shard, r.members[0].offset) for r in rows)
    streams = []
    for order in (rows, random.Random(0).sample(rows, len(rows))):
        streams.append(io.BytesIO())
        write_index(streams[-1], order)
    assert streams[0].getvalue() == streams[1].getvalue()


def test_columns_say_what_the_pair_says(dataset, made_samples):
    index = Index.read(dataset)
    for sample in made_samples:
        row = index[index.find(sample.pair.key)]
        pair = sample.pair
        assert row.shard.startswith(f"{pair.split}-{len(pair.subjects)}s-")
        assert (row.split, row.subjects, row.attributes) == (pair.split, len(pair.subjects), len(pair.subjects))
        assert (row.objects, row.background) == (1, True)
        assert (row.clip_id, row.source_id) == (pair.clip.clip_id, pair.clip.source_id)
        assert (row.caption, row.seconds) == (pair.caption, 1.0)
        assert (row.face_px, row.face_score, row.mask_score, row.owner_share) == (40, 0.9, 0.7, 0.9)


def test_the_worst_reference_gives_the_score(made_samples):
    pair = next(s.pair for s in made_samples if len(s.pair.subjects) == 2)
    poor = pair.subjects[1].attributes[0].model_copy(update={"score": 0.1})
    subjects = (pair.subjects[0], pair.subjects[1].model_copy(update={"attributes": (poor,), "owner_share": 0.55}))
    places = [{"name": "json", "offset": 512, "size": 1, "sha256": ""}]
    row = IndexRow.of(pair.model_copy(update={"subjects": subjects}), "x.tar", places)
    assert (row.mask_score, row.owner_share, row.face_score) == (0.1, 0.55, 0.9)
    bare = pair.model_copy(
        update={
            "objects": (),
            "subjects": tuple(s.model_copy(update={"attributes": (), "body": None}) for s in pair.subjects),
        }
    )
    assert IndexRow.of(bare, "x.tar", places).mask_score is None
    with pytest.raises(ValidationError, match="members"):
        IndexRow.of(pair, "x.tar", [])


def test_an_unknown_member_names_those_there_are(dataset):
    row = Index.read(dataset)[0]
    with pytest.raises(KeyError, match=r"has no 's9\.face\.png': there are mp4, json, s0\.face\.png"):
        read_member(dataset, row, "s9.face.png")


def test_an_empty_dataset_has_an_index(make_dataset):
    index = Index.read(make_dataset((), "empty"))
    assert len(index) == 0 and list(index) == []
    assert len(index.where("train", (1,))) == 0


def test_indexes_of_single_shards_join_to_the_same_bytes_however_they_come(dataset):
    table = Index.read(dataset).table
    files = []
    for cuts in ([0, 7], [0, 1, 1, 4, 7], [0, 3, 7]):
        stream = io.BytesIO()
        assert join_indexes(stream, (table.slice(a, b - a) for a, b in itertools.pairwise(cuts))) == len(table)
        files.append(stream.getvalue())
    assert files[0] == files[1] == files[2]
    assert pq.read_table(io.BytesIO(files[0])).equals(table)


def test_even_tables_hold_as_many_rows_each():
    whole = pa.table({"n": list(range(15))})
    tables = [whole.slice(start, size) for start, size in ((0, 5), (5, 0), (5, 9), (14, 1))]
    even = list(even_tables(tables, rows=4))
    assert [len(table) for table in even] == [4, 4, 4, 3]
    assert pa.concat_tables(even)["n"].to_pylist() == list(range(15))
    assert list(even_tables([])) == []
