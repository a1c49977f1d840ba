"""JSON Schemas of the records: what other programs, and a model's constrained decoding, can rely on.

`python -m dataengine.schemas [FOLDER]` writes them again after `records.py` changed.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from dataengine import records
from dataengine.records import Record

FOLDER = Path(__file__).resolve().parent.parent / "schemas"

STORED: tuple[type[Record], ...] = (
    # what a shard and the tables beside it hold
    records.Pair,
    records.Rejected,
    records.Decision,
    records.Quarantined,
    records.RunSummary,
    # what a vision-language model answers
    records.CaptionAnswer,
    records.EntitiesAnswer,
    records.RepairAnswer,
    records.OwnershipAnswer,
    # measurements, and what they are of
    records.SourceVideo,
    records.Clip,
    records.Probe,
    records.ShotScores,
    records.Stills,
    records.Quality,
    records.People,
    records.Caption,
    records.Grounding,
    records.Segmentation,
    records.Looks,
    records.Background,
    records.EncodedClip,
)


def schemas() -> dict[str, str]:
    """The text of every schema file by its name: `shot_scores.schema.json` describes `ShotScores`."""
    texts = {}
    for record in STORED:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", record.__name__).lower()
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        # "serialization": of what we write, in which every field is there.
        schema |= record.model_json_schema(mode="serialization")
        texts[f"{name}.schema.json"] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return texts


def write(folder: Path = FOLDER) -> None:
    """Write all schema files into a folder and remove those of records that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = schemas()
    for stale in folder.glob("*.schema.json"):
        if stale.name not in texts:
            stale.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:2]))
