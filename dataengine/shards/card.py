"""The dataset card: `README.md` beside the shards, with the YAML head that the Hugging Face hub reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow.compute as pc
import yaml

from dataengine.records import RunSummary, StageProvenance
from dataengine.shards.card_picture import distributions
from dataengine.shards.index import SHARDS, Index
from dataengine.shards.reader import PairDataset
from dataengine.store import Store

RUN = "measurements/run.json"

_HUB_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


CARD = "README.md"
PICTURE = "distributions.png"


@dataclass(frozen=True)
class Told:
    """What a card says that the dataset itself does not hold.

    Attributes:
        prompts: texts that models were asked with, by their hash as provenance has it.
        audit: what checks and people found, as Markdown; empty: nothing is known.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    audit: str = ""


def write_card(out: Store, told: Told = Told()) -> None:
    """Write `README.md`, and its picture where there are samples. Raises as `card`."""
    out.write(CARD, card(out, told).encode())
    index = Index.read(out)
    if len(index):
        out.write(PICTURE, distributions(index))


def card(out: Store, told: Told = Told()) -> str:
    """The card of a dataset, from its index, its samples' provenance and its last run.

    Raises what `Index.read` and `PairDataset` raise when there is no dataset, `ValueError` for a damaged run summary.
    """
    dataset = PairDataset(out)
    summary = RunSummary.from_json(out.read(RUN)) if out.exists(RUN) else None
    return render(dataset.index, _provenance(dataset), summary, told)


def render(index: Index, stages: Sequence[StageProvenance], summary: RunSummary | None, told: Told) -> str:
    """The card's Markdown: the same for the same dataset, without a date or a path."""
    return "\n".join(
        (
            "---",
            yaml.safe_dump(_head(index), sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            "",
            "# Relational video training pairs",
            "",
            "Each sample is a video clip with its caption and reference images grouped by subject: every face is tied "
            "to its own attributes, and every reference to its own words in the caption by character span.",
            "",
            "## What is in it",
            "",
            *_counts(index),
            "",
            *([f"![How sizes and numbers are distributed]({PICTURE})", ""] if len(index) else []),
            _files(),
            "",
            "## How to load it",
            "",
            _loading(index),
            "",
            "## How it was made",
            "",
            *_making(stages, summary),
            *_prompts(stages, told.prompts),
            "",
            "## How good it is",
            "",
            told.audit or "Nothing was checked of it, and nobody has looked at samples of it.",
            "",
            _limits(),
            "",
            *_licences(index),
            "",
        )
    )


def _provenance(dataset: PairDataset) -> list[StageProvenance]:
    """Every stage that made the first sample of any shard, without repeats: a dataset may be built in several runs."""
    shards = dataset.index.table["shard"].to_pylist()
    firsts = [i for i, shard in enumerate(shards) if i == 0 or shard != shards[i - 1]]
    stages = (stage for i in firsts for stage in dataset[i].pair.provenance.stages)
    return list({stage.fingerprint: stage for stage in stages}.values())


def _head(index: Index) -> dict[str, object]:
    head: dict[str, object] = {
        "license": "other",
        "license_name": "as-the-source-videos",
        "task_categories": ["text-to-video"],
        "tags": ["webdataset", "video", "personalized-generation", "multi-subject"],
        "size_categories": [next((name for limit, name in _HUB_SIZES if len(index) < limit), "10M<n<100M")],
    }
    splits = sorted(set(index.table["split"].to_pylist()))
    if splits:
        files = [{"split": _HUB_SPLITS[split], "path": f"{SHARDS}/{split}-*.tar"} for split in splits]
        head["configs"] = [{"config_name": "default", "data_files": files}]
    return head


_HUB_SPLITS = {"train": "train", "val": "validation"}


def _counts(index: Index) -> list[str]:
    table = index.table
    strata = Counter(zip(table["split"].to_pylist(), table["subjects"].to_pylist(), strict=True))
    numbers = sorted({subjects for _, subjects in strata})
    rows = [
        (split, *(strata[split, n] for n in numbers), sum(strata[split, n] for n in numbers))
        for split in sorted({split for split, _ in strata})
    ]
    sources, minutes = len(set(table["source_id"].to_pylist())), _total(index, "seconds") / 60
    length = f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    clips = f"{len(index)} samples from {sources} source video{'' if sources == 1 else 's'}, {length} of clips. "
    clips += f"{_total(index, 'subjects'):.0f} subjects with a face, {_total(index, 'attributes'):.0f} attributes tied "
    clips += f"to them, {_total(index, 'objects'):.0f} objects, {_total(index, 'background'):.0f} backgrounds."
    heading = ("samples", *(f"{n} subject{'s' if n > 1 else ''}" for n in numbers), "all")
    return [clips, "", *_table(heading, rows)]


def _total(index: Index, column: str) -> float:
    return pc.sum(index.table[column]).as_py() or 0


def _table(heading: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return ["| " + " | ".join(_cell(value) for value in line) + " |" for line in lines]


def _cell(value: object) -> str:
    """Text that cannot leave its cell: names of models and rules come from configuration."""
    return " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _files() -> str:
    return """\
| file of a sample | what it is |
| --- | --- |
| `KEY.mp4` | the clip, H.264 |
| `KEY.json` | the record: caption, subjects with their attributes, character spans, boxes, scores, provenance |
| `KEY.s0.face.png` | subject 0's face, the raw crop of its box |
| `KEY.s0.a0.png`, `KEY.s0.a0.mask.png` | subject 0's attribute 0 on white, and its mask over the whole frame |
| `KEY.s0.body.png`, `KEY.s0.body.mask.png` | subject 0 whole, where it was measured |
| `KEY.o0.png`, `KEY.o0.mask.png` | object 0 on white, and its mask |
| `KEY.bg.png` | the scene with people and objects removed |

Numbers are those of the measurements: a subject or attribute that was refused leaves a gap. `index.parquet` has a row
a sample, with offset, size and SHA-256 of each of its files in its shard, so that any file is one ranged read.
`clips.parquet` has every clip and, where it gave no sample, the rule that refused it; `quarantine.parquet` has what
could not be processed."""


def _loading(index: Index) -> str:
    splits = set(index.table["split"].to_pylist())
    split = "train" if "train" in splits or not splits else min(splits)
    return f'''\
With plain webdataset, in this folder:

```python
import json
from pathlib import Path

import webdataset as wds

shards = sorted(str(path) for path in Path("{SHARDS}").glob("{split}-*.tar"))
for sample in wds.WebDataset(shards, shardshuffle=False):
    pair = json.loads(sample["json"])
    for subject in pair["subjects"]:
        face = sample[subject["face"]["member"]]  # PNG bytes
        for attribute in subject["attributes"]:
            start, end = attribute["phrase"]["span"]
            print(sample["__key__"], subject["noun"]["text"], "has", pair["caption"][start:end])
```

With this project's typed reader, by position, by key or through `torch.utils.data.DataLoader`:

```python
from dataengine.shards.reader import PairDataset
from dataengine.store import Store

dataset = PairDataset(Store.at("."), split="{split}")
sample = dataset[0]
print(len(dataset), sample.pair.caption, sorted(sample.members))
```'''


def _making(stages: Sequence[StageProvenance], summary: RunSummary | None) -> list[str]:
    rows = [(s.stage, s.model, s.revision or "-", s.version, s.fingerprint) for s in stages]
    lines = ["Measured by:", "", *_table(("stage", "model", "revision", "code version", "fingerprint"), rows)]
    if summary is None:
        return lines
    refused = ", ".join(
        f"{_cell(rule)} {n}" for rule, n in sorted(summary.rejected.items(), key=lambda r: (-r[1], r[0]))
    )
    lines += [
        "",
        f"The last build read {summary.sources} source videos ({summary.duplicates} further copies of them, "
        f"{summary.skipped} files that are no videos), cut {summary.clips} clips and made {summary.pairs} pairs; "
        f"{summary.quarantined} rows could not be processed. Clips refused by rule: {refused or 'none'}.",
        "",
        "```yaml",
        yaml.safe_dump(summary.config, sort_keys=False, allow_unicode=True).rstrip().replace("```", "'''"),
        "```",
    ]
    return lines


def _prompts(stages: Sequence[StageProvenance], texts: Mapping[str, str]) -> Iterator[str]:
    """The texts that models were asked with; a text that is no longer at hand is named by its hash."""
    for stage in stages:
        if stage.prompt:
            text = texts.get(stage.prompt)
            yield ""
            yield f"`{_cell(stage.stage)}` was asked with the prompts `{stage.prompt}`" + (":" if text else ".")
            if text:
                yield from ("", "````text", text.replace("````", "''''"), "````")


def _limits() -> str:
    return """\
## Known limits

- Captions, attributes and their owners are made by models and rules without a person looking at each. Where votes and
  pixels disagree an attribute is left out, so a subject may wear more than is tied to it.
- References of `in_clip` samples come from the clip itself: a model can learn to copy them, pose and light included.
- A subject is somebody whose face is seen; people from behind are not tied.
- Backgrounds are partly filled in where no frame showed what was behind people."""


def _licences(index: Index) -> list[str]:
    """What was said of the sources' licences, by clips."""
    told = Counter(index.table["licence"].to_pylist())
    unknown = told.pop(None, 0)
    lines = ["## Licences", ""]
    if told:
        rows = sorted(told.items(), key=lambda item: (-item[1], item[0]))
        lines += [
            *_table(("licence of the source", "samples"), [*rows, *([("not given", unknown)] if unknown else [])]),
            "",
        ]
    if unknown:
        lines.append(
            "Clips whose licence was not given keep that of their source videos, which this dataset does not know: see "
            "to it before you share them."
        )
    lines.append(
        "The records and the layout may be used freely. The people in the videos have rights in their likeness."
    )
    return lines
