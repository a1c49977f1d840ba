"""The dataset card, with what only a build or an audit knows."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from dataengine.audit.report import numbers_of
from dataengine.audit.tables import RISK
from dataengine.config import CONF, AuditSettings, ConfigError, load
from dataengine.shards.card import Told, write_card
from dataengine.stage import text_hash
from dataengine.store import Store, StoreError
from pipelines.cache import last_run, settings_of_run
from pipelines.stages import compose


def write_dataset_card(store: Store) -> None:
    """Write `README.md`. Raises `StoreError` or `ValueError` when there is no dataset that can be read."""
    write_card(store, Told(prompts=_prompts(store), audit=" ".join((*_checks(store), *_audit(store)))))


def _checks(store: Store) -> Iterator[str]:
    """What the automatic checks say, where they ran."""
    if store.exists(RISK):
        with store.open_input(RISK) as stream:
            failed = pq.read_table(stream, columns=["failed"])["failed"].to_pylist()
        yield f"{sum(map(bool, failed))} of {len(failed)} samples fail an automatic check (`checks.parquet`)."


def _audit(store: Store) -> Iterator[str]:
    """The error rate that people found, from the random stratum alone."""
    numbers = numbers_of(store, load(AuditSettings, [(CONF / "audit.yaml", None)]))
    found = None if numbers is None else numbers.estimate
    if found is None:
        yield "No random sample of it was judged by people: `dataengine audit serve` is the place to."
        return
    yield (
        f"Of {found.judged} samples from {found.sources} source videos, drawn at random and judged by people, "
        f"{found.wrong} were wrong: {found.rate:.1%}, between {found.low:.1%} and {found.high:.1%} with "
        f"{found.confidence:.0%} confidence."
    )


def _prompts(store: Store) -> dict[str, str]:
    """Prompts by hash, as the last build's settings give them; none where no build of this version made the dataset."""
    try:
        stages = [step.stage for step in compose(settings_of_run(last_run(store))).steps]
    except (StoreError, ConfigError):
        return {}
    return {text_hash(stage.prompt): stage.prompt for stage in stages if stage.prompt}
