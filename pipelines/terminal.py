"""What all commands share on the terminal: options, exit codes, and failures told in one message."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from dataengine.config import CONF, AuditSettings, BuildSettings, ConfigError, Settings, load, profile_file
from dataengine.lumosx.settings import TrainSettings

console = Console(width=None if sys.stdout.isatty() else 120)
errors = Console(stderr=True)

OVERRIDE = re.compile(r"^[a-z_][a-z0-9_.]*=")


class Exit(IntEnum):
    DONE = 0
    NOTHING = 1
    USAGE = 2
    QUARANTINED = 3


class Kind(StrEnum):
    BUILD = "build"
    TRAIN = "train"
    AUDIT = "audit"


SETTINGS: dict[Kind, type[Settings]] = {Kind.BUILD: BuildSettings, Kind.TRAIN: TrainSettings, Kind.AUDIT: AuditSettings}

Profile = Annotated[str, typer.Option(help="A name from conf/profiles/, or a path ending in .yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Change single settings.")]
Words = Annotated[
    list[str] | None, typer.Argument(metavar="[MORE INPUTS] [KEY=VALUE]...", help="More inputs; changed settings.")
]
Inputs = Annotated[list[str] | None, typer.Option("--input", help="Video, folder or s3://, gs:// URI.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join (default: Ray in this process).")]
Output = Annotated[str, typer.Argument(metavar="OUT", help="A folder that `build` wrote, or its s3:// or gs:// URI.")]


def settings_of(kind: Kind, profile: str, overrides: Sequence[str]) -> Settings:
    """Defaults, then the profile's section, then overrides. Raises `ConfigError`."""
    return load(SETTINGS[kind], [(CONF / f"{kind}.yaml", None), (profile_file(profile), kind.value)], overrides)


@contextmanager
def explained() -> Iterator[None]:
    """Expected failures end in one message and an exit code, not in a traceback."""
    from pipelines.alone import Terminated, command_line

    try:
        yield
    except KeyboardInterrupt as error:
        by, code = ("SIGTERM", 143) if isinstance(error, Terminated) else ("Ctrl-C", 130)
        errors.print(f"\nstopped by {by}. What was committed is kept. To go on from there:", highlight=False)
        errors.print(f"  {escape(command_line())}", highlight=False, soft_wrap=True)
        raise typer.Exit(code) from error
    except Exception as error:
        usage, failures = _expected()
        if not isinstance(error, (*usage, *failures)):
            raise
        # Unwrapped: messages have commands to copy.
        errors.print(f"[bold red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(Exit.USAGE if isinstance(error, usage) else Exit.NOTHING) from error


def _expected() -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """Failures by wrong usage, and others with a message for people. Imported late: torch alone takes seconds."""
    from dataengine.audit.apply import ApplyError
    from dataengine.audit.desk import DatasetUnreadable
    from dataengine.audit.events import EventError
    from dataengine.audit.security import AccessError
    from dataengine.engine.lease import Busy, LeaseLost
    from dataengine.engine.run import ClusterTooSmall
    from dataengine.engine.sources import InputError
    from dataengine.lumosx.checkpoint import CheckpointError
    from dataengine.lumosx.data import SampleError
    from dataengine.lumosx.export import ExportError
    from dataengine.lumosx.trainer import TrainError
    from dataengine.lumosx.weights import WeightsError
    from dataengine.stage import Outage
    from dataengine.store import StoreError
    from dataengine.weights import MissingWeightsError
    from pipelines.preflight import PreflightError

    failures = (Busy, LeaseLost, ClusterTooSmall, StoreError, CheckpointError, SampleError, MissingWeightsError)
    more = (TrainError, WeightsError, ExportError, Outage, EventError, DatasetUnreadable)
    return (ConfigError, InputError, PreflightError, ApplyError, AccessError), (*failures, *more)
