"""`dataengine import` and `dataengine export`: from and to the layouts that others use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from dataengine.shards.losses import Losses


def show_losses(losses: Losses, console: Console) -> None:
    """What did not fit, and how often."""
    if not losses.losses:
        console.print("nothing was lost")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("what the format cannot hold", overflow="fold")
    table.add_column("times", justify="right", no_wrap=True)
    table.add_column("why", style="dim", overflow="fold")
    for loss in losses.losses:
        table.add_row(escape(loss.what), str(loss.count), escape(loss.why))
    console.print(table)
