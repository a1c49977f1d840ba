"""Training as one process, under `torchrun`, or on Ray Train: the same loop over the same run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from dataengine.lumosx.distributed import joined
from dataengine.lumosx.metrics import StepMetrics
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.trainer import TrainError, TrainResult, result, train

REPORT_EVERY = 10
"""Steps between two reports to Ray: each waits for all workers."""


def train_here(data: str, run: Path, settings: TrainSettings, console: Console) -> TrainResult | None:
    """Train in this process, with those that `torchrun` started beside it. None on all ranks but the first.

    Raises what `train` raises.
    """
    with joined():
        return train(data, run, settings, console=console)


def train_on_ray(
    data: str, run: Path, settings: TrainSettings, *, workers: int, address: str | None = None, retries: int = 3
) -> TrainResult:
    """Train on Ray Train workers, a GPU each where the cluster has them.

    A worker that dies takes the others with it; all start again from the run's newest checkpoint, up to `retries`
    times. Every node must see the run's folder.

    Raises:
        TrainError: it failed more often, or can never work; the message is the worker's.
        ClusterTooSmall: no such cluster, or not enough of it.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from dataengine.engine.run import connect

    started = time.monotonic()
    connect(address)
    cluster = ray.cluster_resources()
    gpus = cluster.get("GPU", 0) >= workers
    # On one machine the workers share what cores there are; on a cluster each has one of its own to be placed by.
    cpus = 1.0 if address else max(0.1, math.floor(10 * min(1.0, cluster.get("CPU", 1) / (workers + 1))) / 10)
    run = run.resolve()
    run.mkdir(parents=True, exist_ok=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"data": data, "run": str(run), "settings": settings.model_dump_json()},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(
            name="ray_train", storage_path=str(run), failure_config=FailureConfig(max_failures=retries)
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise TrainError(f"{run}: training on Ray failed: {error}") from error
    return result(run, time.monotonic() - started)


def _worker(config: Mapping[str, Any]) -> None:
    """One rank. Ray has made the process group."""
    import ray.train
    import torch

    if torch.cuda.is_available():
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())
    settings = TrainSettings.model_validate_json(config["settings"])

    def report(metrics: StepMetrics) -> None:
        if metrics.step % REPORT_EVERY == 0 or metrics.step == settings.steps:
            numbers = {"loss": metrics.loss, "grad_norm": metrics.grad_norm, "lr": metrics.lr}
            ray.train.report({"step": metrics.step, "seconds": metrics.seconds, **numbers})

    train(config["data"], Path(config["run"]), settings, on_step=report)
