"""A dataset of a few drawn clips, for tests outside `tests/shards`."""

from collections.abc import Callable, Sequence

from dataengine.config import DecideSettings, PairRules, ShardSettings
from dataengine.decide.facts import Measured
from dataengine.decide.pairs import decide_pair
from dataengine.records import Pair, Provenance
from dataengine.shards.assembly import assemble
from dataengine.shards.index import INDEX, SHARDS, IndexRow, write_index
from dataengine.shards.plan import SampleName, plan_shards
from dataengine.shards.writer import write_shard
from dataengine.store import Store


def write(out: Store, measured_clip: Callable[..., Measured], people: Sequence[int] = (1, 2, 2, 3)) -> list[Pair]:
    """Shards of two samples and their index."""
    made = {}
    for number, count in enumerate(people):
        measured = measured_clip(number, people=count, media=True)
        rules = DecideSettings(pairs=PairRules(val_share=0.4))
        pair = decide_pair(measured, Provenance(stages=(), decided_by="test"), rules, seed=0).outcome
        assert isinstance(pair, Pair)
        files = assemble(pair, measured.stills, measured.segmentation, measured.background, measured.encoded)
        made[pair.key] = (pair, files)
    rows: list[IndexRow] = []
    for plan in plan_shards((SampleName.of(pair) for pair, _ in made.values()), ShardSettings(samples=2)):
        with out.open_output(f"{SHARDS}/{plan.name}") as stream:
            rows += write_shard(stream, plan.name, (made[key] for key in plan.keys))
    with out.open_output(INDEX) as stream:
        write_index(stream, rows)
    return [pair for pair, _ in made.values()]
