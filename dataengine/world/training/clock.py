"""How far a training has come: by its steps, or by the time that it is given."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Clock:
    """Ends a training after so many steps or minutes of wall clock, whichever comes first; `None` is no end.

    Schedules go by `share`, so that a training that ends by time ends with the low rate of a last step, too.
    """

    steps: int | None
    minutes: float | None = None
    spent_s: float = 0.0
    """Wall clock of earlier runs that this one goes on from."""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Of wall clock, with those of earlier runs."""
        return self.spent_s + time.monotonic() - self.began

    def share(self, step: int) -> float:
        """What is done of the training before this step, 0 to 1."""
        of_steps = step / self.steps if self.steps else 0.0
        of_time = self.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(of_steps, of_time))

    @property
    def range_end(self) -> int:
        """A step that is never reached."""
        return self.steps or 1 << 31
