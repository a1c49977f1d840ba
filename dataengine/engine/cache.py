"""What an output folder stores of measurements, and which of it nothing uses any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dataengine.engine.measurements import Ledger, Measurements
from dataengine.records import Quarantined


@dataclass(frozen=True)
class StoredStage:
    """All results of one stage under one fingerprint."""

    stage: str
    fingerprint: str
    rows: int
    failed: int
    bytes: int


def stored_stages(measurements: Measurements) -> list[StoredStage]:
    """Everything that is stored, by stage and fingerprint."""
    sizes: dict[tuple[str, str], int] = {}
    for name, size in measurements.store.sizes().items():
        words = name.split("/")
        if len(words) == 3 and words[2].startswith(("part-", "summary-")):
            sizes[words[0], words[1]] = sizes.get((words[0], words[1]), 0) + size
    return [_stored(stage, print_, measurements.ledger(stage, print_), size) for (stage, print_), size in sizes.items()]


def _stored(stage: str, fingerprint: str, ledger: Ledger, size: int) -> StoredStage:
    return StoredStage(stage, fingerprint, len(ledger), int(ledger.failed.sum()), size)


def unused(stored: Iterable[StoredStage], used: Iterable[tuple[str, str]]) -> list[StoredStage]:
    """What none of the (stage, fingerprint) in `used` names."""
    wanted = set(used)
    return [one for one in stored if (one.stage, one.fingerprint) not in wanted]


def collect(measurements: Measurements, unwanted: Iterable[StoredStage]) -> int:
    """Delete these results; returns their bytes. Only for who holds the lease."""
    freed = 0
    for one in unwanted:
        measurements.store.delete_folder(f"{one.stage}/{one.fingerprint}")
        freed += one.bytes
    return freed


def failures(measurements: Measurements, stage: str, fingerprint: str, error: str | None = None) -> list[str]:
    """Ids of the rows that failed there, all or those with that class of error."""
    ledger = measurements.ledger(stage, fingerprint)
    ids = [i.decode() for i in ledger.ids[ledger.failed]]
    if error is None:
        return ids
    found = measurements.records(ledger, ids)
    return [i for i in ids if Quarantined.from_json(found[i].failure or "").error == error]
