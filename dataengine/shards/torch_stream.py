"""`PairStream` for PyTorch's `DataLoader`. Apart from it, because importing torch takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import IterableDataset, get_worker_info

from dataengine.shards.reader import Sample
from dataengine.shards.stream import PairStream


class TorchPairStream(PairStream, IterableDataset[Sample]):
    """A `PairStream` whose share is divided among a loader's workers: every sample comes once over all of them.

    Use it with `DataLoader(…, batch_size=None)` or with a `collate_fn` of your own; set `epoch` before each pass
    (with `persistent_workers=True` workers keep the epoch they started with).
    """

    def __iter__(self) -> Iterator[Sample]:
        """As `PairStream`."""
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from self._share(self._rank * count + number, self._world * count)
