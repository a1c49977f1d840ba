"""What would stop a build, or waste it, found before anything runs: all of it at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata, util

from dataengine.config import (
    BuildSettings,
    ConfigError,
    InsightFaceSettings,
    LamaSettings,
    NetworkSettings,
    QwenSettings,
    Resources,
    StageSettings,
)
from dataengine.engine.gpus import Gpu, gpus_here, on_gpu_nodes
from dataengine.engine.pipeline import Step, pools
from dataengine.models.onnx_session import providers_of
from dataengine.weights import MissingWeightsError, Weights
from pipelines.stages import make, stages, steps

EXTRAS = {"vllm": "vllm"}
"""Which extra of the project brings a package."""
MERGED_PX = 28
"""Qwen2.5-VL makes one token of a square of this side."""


class PreflightError(RuntimeError):
    """The build as configured cannot run here; the message lists everything that is in its way."""


@dataclass(frozen=True)
class Demand:
    """A stage with what it asks for."""

    stage: str
    model: str
    revision: str
    """Empty where the weights are not here."""
    gpus: float
    """Of one worker; of the pool's, where it shares one."""
    workers: int
    gib: float
    """On a GPU; 0 where it runs on the CPU or nobody can tell."""
    has_weights: bool


@dataclass(frozen=True)
class Preflight:
    demands: tuple[Demand, ...]
    gpus: tuple[Gpu, ...]
    """Of this machine; not looked at where nothing asks for any."""
    problems: tuple[str, ...]

    def require(self) -> None:
        """Raises `PreflightError` when there is any problem."""
        if self.problems:
            raise PreflightError(listed(self.problems))


def listed(problems: Sequence[str]) -> str:
    count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = (f"  {i}. {problem}" for i, problem in enumerate(problems, 1))
    return "\n".join((f"preflight found {count}; nothing was started", *lines))


def preflight(settings: BuildSettings, cluster: bool = False) -> Preflight:
    """Look at weights, packages, combinations of settings and, unless a `cluster` is meant, at the GPUs here."""
    problems: list[str] = []
    lacking: dict[str, list[str]] = {}
    """Stages by what they lack: several may use one model."""
    made: list[Step] = []
    for kind in stages(settings):
        try:
            made.append(make(kind, settings))
        except (ConfigError, MissingWeightsError, FileNotFoundError, metadata.PackageNotFoundError) as error:
            problems.append(f"{kind.name}: {error}")
    demands = []
    for pool in pools(made):
        for step in pool:
            found = [*_missing_packages(step), *missing_weights(step.stage.needs.weights)]
            revision = ""
            if not found:
                try:
                    revision = step.stage.revision
                except (MissingWeightsError, metadata.PackageNotFoundError) as error:
                    found.append(str(error))
            for problem in dict.fromkeys(found):
                lacking.setdefault(problem, []).append(step.stage.name)
            demands.append(_demand(step, pool[0].resources, revision))
        problems += _combinations(pool, settings)
    problems += _identities(settings)
    problems = [*(f"{', '.join(stages)}: {lack}" for lack, stages in lacking.items()), *problems]
    wanted = sum(pool[0].resources.gpus * pool[0].resources.workers for pool in pools(made))
    gpus = gpus_here() if wanted and not cluster else ()
    if wanted and not cluster:
        problems += _too_few(wanted, gpus)
        problems += _too_small(made, settings, gpus)
    return Preflight(tuple(demands), gpus, tuple(problems))


def preflight_nodes(settings: BuildSettings) -> None:
    """Look at weights and GPUs on every node of the cluster that has any. Needs `engine.run.connect`.

    Raises `PreflightError`.
    """
    made = steps(settings)
    on_gpus = [step for pool in pools(made) if pool[0].resources.gpus for step in pool]
    if not on_gpus:
        return
    weights = tuple(w for step in on_gpus for w in step.stage.needs.weights)
    problems: list[str] = []
    for node, (gpus, missing) in on_gpu_nodes(partial(_look, weights)).items():
        found = (*missing, *_too_small(made, settings, gpus))
        problems += [f"node {node}: {problem}" for problem in found]
    if problems:
        raise PreflightError(listed(problems))


def _look(weights: Sequence[Weights]) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    return gpus_here(), tuple(missing_weights(weights))


def missing_weights(weights: Sequence[Weights]) -> list[str]:
    """A line for each that is not on this machine, with what fetches it."""
    missing: dict[str, None] = {}
    for one in weights:
        try:
            one.locate()
        except MissingWeightsError as error:
            missing[str(error)] = None
    return list(missing)


def _missing_packages(step: Step) -> Iterator[str]:
    for package in step.stage.needs.packages:
        if util.find_spec(package) is None:
            extra = EXTRAS.get(package)
            how = (
                f"`make setup` installs requirements-gpu.lock where there is an NVIDIA driver, or install the project "
                f"with its extra: uv pip install -e '.[{extra}]'"
                if extra
                else f"install it: uv pip install {package}"
            )
            yield f"the package {package} is missing; {how}"


def _demand(step: Step, resources: Resources, revision: str) -> Demand:
    needs = step.stage.needs
    return Demand(
        stage=step.stage.name,
        model=step.stage.model,
        revision=revision,
        gpus=resources.gpus,
        workers=resources.most_workers,
        gib=needs.gpu_gib if resources.gpus else 0.0,
        has_weights=bool(needs.weights),
    )


def networks(section: StageSettings) -> dict[str, NetworkSettings]:
    """The networks that a stage's settings choose, by their key."""
    chosen = {key: getattr(section, key, None) for key in section.parameters()}
    return {key: network for key, network in chosen.items() if isinstance(network, NetworkSettings)}


def _combinations(pool: Sequence[Step], settings: BuildSettings) -> Iterator[str]:
    """Settings that cannot go together. `pool`: stages that share processes, the first one's."""
    head, held = pool[0].stage.name, pool[0].resources
    if held.gpus > 1 and held.gpus != int(held.gpus):
        yield f"{head}: resources.gpus={held.gpus:g}: above one GPU, Ray gives whole ones"
    for step in pool:
        name, own = step.stage.name, step.resources
        if own.fused and own.in_flight > 1:
            yield (
                f"{name}: resources.in_flight={own.in_flight} with fused: it runs in the processes of {head} as they "
                "are; set fused=false"
            )
        if own.fused and own.gpus and own.gpus != held.gpus:
            yield (
                f"{name}: resources.gpus={own.gpus:g} with fused: it runs in the processes of {head}, which hold "
                f"{held.gpus:g}; set fused=false"
            )
        for key, network in networks(getattr(settings.stages, name)).items():
            if network.device.startswith("cuda") and not held.gpus and not _served(network):
                yield f"{name}: {key}.device={network.device} with resources.gpus=0: its workers are given no GPU"
            if isinstance(network, InsightFaceSettings | LamaSettings) and network.device.startswith("cuda"):
                yield from _onnx(name, network)
            if isinstance(network, QwenSettings):
                yield from _vlm(name, network, held)


def _identities(settings: BuildSettings) -> Iterator[str]:
    """Decisions that need to know who is who, without a detector that tells."""
    detector, rules = settings.stages.faces.detector, settings.decide
    if detector == "insightface":
        return
    asked = {
        f"decide.pairs.cross_clip_share={rules.pairs.cross_clip_share:g}": rules.pairs.cross_clip_share > 0,
        "decide.pairs.split_by=identity": rules.pairs.split_by == "identity",
        f"decide.block.faces={rules.block.faces}": bool(rules.block.faces),
    }
    for setting, is_asked in asked.items():
        if is_asked:
            yield f"faces: {setting} needs face embeddings, and {detector} has none: stages.faces.detector=insightface"


def _served(network: NetworkSettings) -> bool:
    """Whether it runs elsewhere."""
    return isinstance(network, QwenSettings) and network.backend == "endpoint"


def _onnx(name: str, network: NetworkSettings) -> Iterator[str]:
    try:
        providers_of(network)
    except RuntimeError as error:
        yield f"{name}: {error}"


def _vlm(name: str, qwen: QwenSettings, held: Resources) -> Iterator[str]:
    parallel = qwen.vllm.tensor_parallel
    if qwen.backend == "vllm" and parallel > 1 and parallel > held.gpus:
        yield f"{name}: vllm.tensor_parallel={parallel} with resources.gpus={held.gpus:g}: give it {parallel}"
    tokens = qwen.frames * qwen.max_pixels // MERGED_PX**2 + qwen.max_tokens
    if qwen.backend == "vllm" and tokens > qwen.vllm.max_model_len:
        yield (
            f"{name}: {qwen.frames} frames of {qwen.max_pixels} pixels and an answer are {tokens} tokens, more than "
            f"vllm.max_model_len={qwen.vllm.max_model_len}: raise it, or lower qwen.frames or qwen.max_pixels"
        )


def _too_few(wanted: float, gpus: Sequence[Gpu]) -> Iterator[str]:
    if not gpus:
        yield (
            f"the stages ask for {wanted:g} GPUs and this machine has none that nvidia-smi shows; run on a GPU node, "
            "join a cluster with --address, or set stages.*.resources.gpus=0"
        )
    elif wanted > len(gpus):
        yield (
            f"the stages ask for {wanted:g} GPUs and this machine has {len(gpus)}: lower stages.*.resources "
            "(workers, gpus)"
        )


@dataclass(frozen=True)
class Tenant:
    """A worker process on a GPU."""

    name: str
    percent: int
    """Of the GPU, as Ray counts; at most 100."""
    gib: float


def _too_small(made: Sequence[Step], settings: BuildSettings, gpus: Sequence[Gpu]) -> Iterator[str]:
    """Whether memory suffices wherever Ray puts the workers: the worst that may share the smallest GPU must fit it."""
    if not gpus:
        return
    smallest = min(gpus, key=lambda gpu: gpu.gib)
    tenants: list[Tenant] = []
    for pool in pools(made):
        held = pool[0].resources
        if not held.gpus:
            continue
        gib = sum(step.stage.needs.gpu_gib for step in pool)
        for step in pool:
            qwen = networks(getattr(settings.stages, step.stage.name)).get("qwen")
            if isinstance(qwen, QwenSettings) and qwen.backend == "vllm":
                taken = qwen.vllm.gpu_memory * smallest.gib
                if taken < step.stage.needs.gpu_gib:
                    yield (
                        f"{step.stage.name}: vllm.gpu_memory={qwen.vllm.gpu_memory:g} of a {smallest.name} is "
                        f"{taken:.1f} GiB, the model needs {step.stage.needs.gpu_gib:.1f}: raise it, lower "
                        "vllm.max_model_len, or spread the model with vllm.tensor_parallel"
                    )
                gib += max(0.0, taken - step.stage.needs.gpu_gib)  # it takes its share, and no more
        percent = min(100, round(held.gpus * 100))
        tenants += [Tenant("+".join(step.stage.name for step in pool), percent, gib)] * held.most_workers
    worst = heaviest(tenants)
    total = sum(tenant.gib for tenant in worst)
    if total > smallest.gib:
        parts = ", ".join(f"{tenant.name} {tenant.gib:.1f}" for tenant in worst)
        yield (
            f"a GPU ({smallest.name}) has {smallest.gib:.1f} GiB, and the workers that may share it need {total:.1f}: "
            f"{parts}. Give them larger shares (resources.gpus), smaller models, or less of vllm.gpu_memory"
        )


def heaviest(tenants: Sequence[Tenant]) -> tuple[Tenant, ...]:
    """Those who need most memory of all that Ray may put on one GPU together."""
    best: dict[int, tuple[float, tuple[Tenant, ...]]] = {0: (0.0, ())}
    for tenant in tenants:
        for percent, (gib, those) in sorted(best.items(), reverse=True):
            taken = percent + tenant.percent
            if taken <= 100 and gib + tenant.gib > best.get(taken, (0.0, ()))[0]:
                best[taken] = (gib + tenant.gib, (*those, tenant))
    return max(best.values(), key=lambda entry: entry[0])[1]
