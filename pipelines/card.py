"""The dataset card, with what only a build or an audit knows."""

from __future__ import annotations

from dataengine.config import ConfigError
from dataengine.shards.card import Told, write_card
from dataengine.stage import text_hash
from dataengine.store import Store, StoreError
from pipelines.cache import last_run, settings_of_run
from pipelines.stages import compose


def write_dataset_card(store: Store) -> None:
    """Write `README.md`. Raises `StoreError` or `ValueError` when there is no dataset that can be read."""
    write_card(store, Told(prompts=_prompts(store)))


def _prompts(store: Store) -> dict[str, str]:
    """Prompts by hash, as the last build's settings give them; none where no build of this version made the dataset."""
    try:
        stages = [step.stage for step in compose(settings_of_run(last_run(store))).steps]
    except (StoreError, ConfigError):
        return {}
    return {text_hash(stage.prompt): stage.prompt for stage in stages if stage.prompt}
