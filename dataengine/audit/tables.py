"""The tables that the checks leave beside a dataset's shards. Whoever reads them needs no shard."""

from __future__ import annotations

import pyarrow as pa

CHECKS = "checks.parquet"
"""A row a finding, passed ones too; those of a sample stand together."""

RISK = "risk.parquet"
"""A row a sample, also of one that cannot be read."""

MATRIX = "matrix.parquet"
"""A row a cell of a sample's score matrix: one attribute against one subject."""

CHECKS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("check", pa.string()),
        ("entity", pa.string()),
        ("score", pa.float64()),  # in the check's own unit
        ("passed", pa.bool_()),
        ("reason", pa.string()),
    ]
)

RISK_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("risk", pa.float64()),  # 0…1: about how likely it is that a person finds the sample wrong
        ("failed", pa.list_(pa.string())),  # names of checks, the riskiest first
        ("readable", pa.bool_()),  # false: a member is missing or damaged, and `failed` says `readable`
        ("random_rank", pa.int64()),  # the random stratum of n samples is `random_rank < n`
        ("split", pa.string()),
        ("source_id", pa.string()),
        ("subjects", pa.int32()),
        ("attributes", pa.int32()),
        ("shard", pa.string()),
    ]
)

MATRIX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("attribute", pa.string()),
        ("subject", pa.int32()),
        ("votes", pa.float64()),  # the annotator's, 0…1; null where it says nothing
        ("inside", pa.float64()),  # share of the attribute's pixels inside the subject's body
        ("match", pa.float64()),  # a scorer's: how well the phrase fits the subject's pixels; null without one
    ]
)
