"""`dataengine card` tells what a build alone cannot: what checks and auditors found."""

from __future__ import annotations

import shutil
from pathlib import Path

from typer.testing import CliRunner

from dataengine.audit.events import EventLog, Verdict
from dataengine.shards.index import Index
from dataengine.store import Store
from pipelines.cli import Exit, app


def test_the_card_says_what_auditors_found(short, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(short.out, copy)
    before = (copy / "README.md").read_text()
    assert "samples fail an automatic check" in before and "No random sample of it was judged" in before
    rows = list(Index.read(Store.at(copy)))
    log = EventLog(copy / "audit" / "events.sqlite")
    for number, row in enumerate(rows):
        log.append("mia", row.key, Verdict(verdict="reject" if number == 0 else "accept"))
    log.close()
    assert CliRunner().invoke(app, ["card", str(copy)]).exit_code == Exit.DONE
    after = (copy / "README.md").read_text()
    sources = len({row.source_id for row in rows})
    assert f"Of {len(rows)} samples from {sources} source videos, drawn at random and judged by people, 1 were" in after
    assert "95% confidence" in after
