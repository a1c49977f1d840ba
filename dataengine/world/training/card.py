"""The card of the committed checkpoints: what each is, how it was trained and how good it is."""

from __future__ import annotations

from pathlib import Path

from dataengine.world.training.log import FILE, TrainingLog, read_log

CARD = "README.md"
_INTRODUCTION = """\
# Tiny checkpoints of the world

Networks of the production architectures, small enough to be committed and to run on a CPU, trained from scratch on
`dataengine/world` alone. They see drawn people of 280 x 168 pixels and nothing else; they answer the wording of
`conf/prompts` and no other. They exist so that a change of the pipeline can be judged by accuracy: `make accuracy`.

`make world-models` trains them again, `dataengine world train NAME` one of them. Licence: that of the repository. All
data is procedural; no picture or text of anybody is in them. The same seed gives the same examples and nearly the same
weights: sums of floats depend on the processor.
"""


def write_card(checkpoints: Path) -> None:
    """Write `README.md` from the `training.json` of every checkpoint in the folder."""
    logs = [read_log(file.parent) for file in sorted(checkpoints.glob(f"*/{FILE}"))]
    (checkpoints / CARD).write_text(card(logs))


def card(logs: list[TrainingLog]) -> str:
    """The card as Markdown."""
    lines = [
        _INTRODUCTION,
        "| network | parameters | MB | steps | seed | trained on | minutes | loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for log in logs:
        loss = f"{log.curve[0].loss:.3f} → {log.curve[-1].loss:.3f}" if log.curve else ""
        lines.append(
            f"| {log.network} | {log.parameters:,} | {log.bytes / 1e6:.1f} | {log.steps:,} | {log.seed} | "
            f"{log.device} | {log.cpu_minutes if log.device == 'cpu' else log.minutes or 0:.0f} | {loss} |"
        )
    versions = " and ".join(sorted({log.torch for log in logs}))
    lines += [f"\nMinutes are of one thread on a CPU, and of wall clock on a GPU. PyTorch {versions}.", ""]
    lines += ["## Held-out figures", "", "On a world that no training saw, through the adapter that a build uses.", ""]
    lines += ["| network | figure | value | of |", "|---|---|---|---|"]
    lines += [f"| {log.network} | {f.name} | {f.value:.3f} | {f.of:,} |" for log in logs for f in log.held_out]
    return "\n".join(lines) + "\n"
