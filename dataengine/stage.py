"""What a stage is: typed rows in, one typed record a row out. Nothing here knows Ray, storage or any stage by name."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from dataengine.records import Clip, Record, SourceVideo, StageProvenance
from dataengine.weights import Needs

R = TypeVar("R", bound=Record)


class BadInput(Exception):
    """The row itself cannot be processed, today or tomorrow: it is quarantined with this message and never retried.

    `answers` are what a model said, word for word, where that is the reason.
    """

    def __init__(self, message: str, answers: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.answers = tuple(answers)


class Outage(Exception):
    """No row's fault: something that the stage works with is gone. The run stops, and goes on when it is started again.

    Quarantining instead would empty a dataset in the minutes that a server is away.
    """


@dataclass(frozen=True)
class Row:
    """A source or one of its clips, with the records measured on it so far."""

    source: SourceVideo
    clip: Clip | None = None
    records: Mapping[type[Record], Record] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The content id that results are stored under."""
        return self.source.source_id if self.clip is None else self.clip.clip_id

    def __getitem__(self, kind: type[R]) -> R:
        """The record of that type. Raises `KeyError` when no earlier stage wrote one."""
        record = self.records[kind]
        assert isinstance(record, kind)
        return record

    def with_record(self, record: Record) -> Row:
        return Row(self.source, self.clip, {**self.records, type(record): record})


class Stage(ABC, Generic[R]):
    """One measuring step. Subclasses set the class variables and write `process`; models are loaded in `setup`.

    An instance is cheap to make and to send to another process until `setup` has run there.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raise it when the code's results change: stored results of older versions are then not reused."""
    reads: ClassVar[tuple[type[Record], ...]]
    writes: ClassVar[type[Record]]

    model: str = "rules"
    """The network behind the stage, for provenance; instances override it when config chooses."""
    prompt: str = ""
    """The text a language model is asked with; its hash enters the fingerprint and the provenance."""
    needs: Needs = Needs()
    """What must be there where the stage runs; instances override it when config chooses a model."""

    @property
    def revision(self) -> str:
        """What pins the model's weights and code; empty for rules.

        Looked up when it is asked for: a stage can be made, and asked for its `needs`, without its weights. Raises
        `MissingWeightsError` when they are not on this machine.
        """
        return ""

    @abstractmethod
    def parameters(self) -> Mapping[str, Any]:
        """Everything beside code and model that changes results, as plain JSON values."""

    def setup(self) -> None:
        """Load models. Called once per worker process, before the first row that is not already stored."""

    @abstractmethod
    def process(self, rows: Sequence[Row]) -> Sequence[R | BadInput]:
        """One record per row, in order; for a row that it refuses, a `BadInput` in its place.

        An exception rejects the batch; the engine then tries its rows one by one.
        """


def fingerprint(stage: Stage[Any], upstream: Sequence[str]) -> str:
    """Hash of all that determines a stage's results: a stored result is reused iff row id and fingerprint match.

    `upstream` are the fingerprints of the stages whose records it reads, so a change propagates to dependants alone.
    """
    identity = {
        "name": stage.name,
        "version": stage.version,
        "model": stage.model,
        "revision": stage.revision,
        "prompt": text_hash(stage.prompt),
        "parameters": stage.parameters(),
        "upstream": sorted(upstream),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def fingerprints(stages: Sequence[Stage[Any]]) -> dict[str, str]:
    """Fingerprint of every stage by name. Raises `ValueError` when a stage reads what none before it writes."""
    writer: dict[type[Record], str] = {}
    prints: dict[str, str] = {}
    for stage in stages:
        missing = [kind.__name__ for kind in stage.reads if kind not in writer]
        if missing:
            raise ValueError(f"stage {stage.name!r} reads {', '.join(missing)}, which no stage before it writes")
        if stage.name in prints or stage.writes in writer:
            raise ValueError(f"stage {stage.name!r} or its record {stage.writes.__name__} stands twice in the pipeline")
        prints[stage.name] = fingerprint(stage, [prints[writer[kind]] for kind in stage.reads])
        writer[stage.writes] = stage.name
    return prints


def text_hash(text: str) -> str:
    """A short hash of a prompt; empty for none."""
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""


def provenance(stage: Stage[Any], print_: str) -> StageProvenance:
    return StageProvenance(
        stage=stage.name,
        version=stage.version,
        fingerprint=print_,
        model=stage.model,
        revision=stage.revision,
        prompt=text_hash(stage.prompt),
        parameters=dict(stage.parameters()),
    )
