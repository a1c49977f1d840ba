"""What a run did as Prometheus metrics, through Ray's metrics agent (a part of `ray[default]`; without it: nowhere).

Every Ray node serves them, beside Ray's own and with its prefix `ray_`, on the port that `ray start
--metrics-export-port` gave (a free one otherwise; open to the network, unless the node's address is 127.0.0.1). The
dashboard of the head node keeps the list of all nodes in `<session>/prom_metrics_service_discovery.json`, and writes a
configuration for Prometheus that reads it: by default

    prometheus --config.file=/tmp/ray/session_latest/metrics/prometheus/prometheus.yml

For instance `sum by (stage) (rate(ray_dataengine_rows_total{outcome="done"}[5m]))` is the rows a second of each stage.
Sum over the other labels: a restarted tally counts on in a series of its own, from where the dead one was last seen.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from dataengine.engine.worker import Counts

OUTCOMES = {"done": "done", "cached": "cached", "spared": "gated", "quarantined": "quarantined"}
"""Value of the label `outcome`, and the field of `Counts` that it counts."""


class Metrics:
    """The counters of one process. They only grow; who restarts gives increments from where it was, not from zero."""

    def __init__(self) -> None:
        self._rows = Counter(
            "dataengine_rows_total", "Rows that came through a stage, by what became of them", ("stage", "outcome")
        )
        self._seconds = Counter("dataengine_stage_seconds_total", "Wall seconds inside a stage", ("stage",))
        self._cpu = Counter("dataengine_cpu_seconds_total", "Processor seconds of a stage", ("stage",))
        self._gpu = Counter(
            "dataengine_gpu_seconds_total", "Wall seconds inside a stage times the GPUs of a worker", ("stage",)
        )
        self._bytes = Counter("dataengine_bytes_total", "Bytes that a stage committed", ("stage",))
        self._cost = Gauge("dataengine_cost", "CPU and GPU time of this run at the configured prices")

    def count(self, stage: str, more: Counts, gpus: float) -> None:
        """Add what a stage did since it was last counted; `gpus` are those that one worker of it holds."""
        for outcome, field in OUTCOMES.items():
            _grow(self._rows, getattr(more, field), {"stage": stage, "outcome": outcome})
        for counter, amount in (
            (self._seconds, more.seconds),
            (self._cpu, more.cpu_seconds),
            (self._gpu, more.seconds * gpus),
            (self._bytes, more.bytes),
        ):
            _grow(counter, amount, {"stage": stage})

    def set_cost(self, cost: float) -> None:
        self._cost.set(cost)


def _grow(counter: Counter, amount: float, tags: dict[str, str]) -> None:
    if amount > 0:  # Ray refuses to add nothing
        counter.inc(amount, tags)
