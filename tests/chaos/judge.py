"""Is a finished build as good as one that nobody disturbed? Looks at files alone."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq


@dataclass(frozen=True)
class Part:
    """A committed file of measurements as it was first seen."""

    inode: int
    mtime_ns: int
    size: int
    ids: tuple[str, ...]

    @classmethod
    def at(cls, path: Path) -> Part:
        status = path.stat()
        ids = pq.read_table(path, columns=["id"])["id"].to_pylist()
        return cls(status.st_ino, status.st_mtime_ns, status.st_size, tuple(ids))


@dataclass
class Ledger:
    """Every part that was ever seen in `OUT/measurements`, by its path below that folder."""

    out: Path
    parts: dict[str, Part] = field(default_factory=dict)
    rewritten: dict[str, Part] = field(default_factory=dict)
    """Parts that were replaced or vanished after they had been committed."""

    def observe(self) -> int:
        """Look at the folder, and give the number of new parts."""
        before = len(self.parts)
        root = self.out / "measurements"
        seen: set[str] = set()
        for path in root.glob("*/*/part-*.parquet"):
            name = path.relative_to(root).as_posix()
            known = self.parts.get(name)
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed: as if it had not been
                status = path.stat()
                if known is None:
                    self.parts[name] = Part.at(path)
                elif (status.st_ino, status.st_mtime_ns, status.st_size) != (known.inode, known.mtime_ns, known.size):
                    self.rewritten[name] = known
                    self.parts[name] = Part.at(path)
                seen.add(name)
        self.rewritten |= {name: part for name, part in self.parts.items() if name not in seen}
        return len(self.parts) - before

    def ids(self) -> dict[str, Counter[str]]:
        """How often each stage and fingerprint (`stage/fingerprint`) has each id."""
        found: dict[str, Counter[str]] = {}
        for name, part in self.parts.items():
            found.setdefault(name.rsplit("/", 1)[0], Counter()).update(part.ids)
        return found

    def rows(self) -> int:
        return sum(len(part.ids) for part in self.parts.values())

    def recomputed(self) -> int:
        """Rows that were measured although they had been committed: in a rewritten part, or again in another one."""
        doubled = sum(sum(ids.values()) - len(ids) for ids in self.ids().values())
        return doubled + sum(len(part.ids) for part in self.rewritten.values())


def fixed_files(out: Path) -> dict[str, str]:
    """Name to SHA-256 of everything that the same input and settings must give to the byte."""
    paths = [*out.glob("shards/*"), *(out / f"{name}.parquet" for name in ("index", "quarantine", "clips"))]
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def compare(reference: Ledger, ledger: Ledger) -> list[str]:
    """What is wrong with a finished build, a finding a line; none when it is as good as the undisturbed one."""
    wanted, got = fixed_files(reference.out), fixed_files(ledger.out)
    findings = [f"{name}: missing" for name in sorted(wanted.keys() - got.keys())]
    findings += [f"{name}: not in the reference" for name in sorted(got.keys() - wanted.keys())]
    findings += [f"{name}: other bytes" for name in sorted(wanted.keys() & got.keys()) if wanted[name] != got[name]]
    findings += [f"{path.relative_to(ledger.out)}: temporary file left" for path in ledger.out.rglob(".tmp-*")]
    findings += [f"{name}: rewritten, {len(part.ids)} rows" for name, part in sorted(ledger.rewritten.items())]
    stored = ledger.ids()
    for stage, ids in sorted(reference.ids().items()):
        found = stored.get(stage, Counter())
        doubled = sorted(i for i, count in found.items() if count > 1)
        findings += [f"{stage}: {len(doubled)} ids stored twice: {doubled[0]} …"] if doubled else []
        findings += [f"{stage}: {len(ids.keys() - found.keys())} ids missing"] if ids.keys() - found.keys() else []
        findings += [f"{stage}: {len(found.keys() - ids.keys())} unknown ids"] if found.keys() - ids.keys() else []
    findings += [f"{stage}: not in the reference" for stage in sorted(stored.keys() - reference.ids().keys())]
    return findings
