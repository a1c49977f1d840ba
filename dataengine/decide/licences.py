"""Under which licence a source came: a table by source, and what holds for the rest."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dataengine.config import ConfigError
from dataengine.records import SourceVideo


@dataclass(frozen=True)
class Licences:
    by_source: Mapping[str, str] = field(default_factory=dict)
    """By source id, by name below the input folder, or by a folder of it, which ends in `/`."""
    otherwise: str = ""

    @classmethod
    def read(cls, table: str, otherwise: str) -> Licences:
        """`table`: a CSV file with the columns `source` and `licence`, UTF-8. Raises `ConfigError` with the line."""
        if not table:
            return cls({}, otherwise)
        found: dict[str, str] = {}
        try:
            with Path(table).open(encoding="utf-8-sig", newline="") as stream:
                rows = csv.DictReader(stream, strict=True)
                if rows.fieldnames is None or not {"source", "licence"} <= set(rows.fieldnames):
                    raise ConfigError(f"{table}: the first line must name the columns source,licence")
                for row in rows:
                    source, licence = (row["source"] or "").strip(), (row["licence"] or "").strip()
                    if not source or not licence:
                        raise ConfigError(f"{table}, line {rows.line_num}: a source and its licence are needed")
                    if found.setdefault(source, licence) != licence:
                        raise ConfigError(f"{table}, line {rows.line_num}: {source} has two licences")
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{table}: cannot be read as CSV: {error}") from error
        return cls(found, otherwise)

    def of(self, source: SourceVideo) -> str | None:
        """Its own, that of the innermost folder named, or what holds otherwise; None where nothing was said.

        Copies of one file may have come under several licences: all are named.
        """
        if source.source_id in self.by_source:
            return self.by_source[source.source_id]
        found = dict.fromkeys(self._by_name(name) for name in source.names)
        return "; ".join(filter(None, found)) or None

    def _by_name(self, name: str) -> str:
        if name in self.by_source:
            return self.by_source[name]
        folders = name.split("/")[:-1]
        for depth in range(len(folders), 0, -1):
            folder = "/".join(folders[:depth]) + "/"
            if folder in self.by_source:
                return self.by_source[folder]
        return self.otherwise
