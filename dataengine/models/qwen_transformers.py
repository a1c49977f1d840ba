"""Qwen2.5-VL in plain transformers: one question at a time, for a look at a few clips where no vLLM is installed."""

from __future__ import annotations

import asyncio
import json
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from dataengine.config import QwenSettings
from dataengine.models.interfaces import Answer, Question
from dataengine.models.qwen_messages import chat, turn
from dataengine.models.qwen_weights import gpu_gib, weights
from dataengine.weights import Needs

if TYPE_CHECKING:
    import torch
    import xgrammar

SCHEMAS = 64
"""Compiled grammars that are kept."""


class TransformersQwen:
    """Implements `VisionLanguageModel`."""

    name = "qwen2.5-vl"

    def __init__(self, settings: QwenSettings) -> None:
        self._settings = settings
        self._weights = weights(settings)
        self.needs = Needs((self._weights,), (), gpu_gib(settings))
        self._loaded: _Loaded | None = None
        self._turns = asyncio.Lock()

    @property
    def revision(self) -> str:
        return f"{self._weights.identity()} transformers {metadata.version('transformers')}"

    def load(self) -> None:
        self._loaded = _Loaded(str(self._weights.locate()), self._settings)

    async def answer(self, question: Question) -> Answer:
        if self._loaded is None:
            raise RuntimeError("TransformersQwen.load() must be called before answer()")
        async with self._turns:
            return await asyncio.to_thread(self._loaded.answer, question)


class _Loaded:
    """The network, its processor, and the grammars of the schemas asked for so far."""

    def __init__(self, folder: str, settings: QwenSettings) -> None:
        import torch
        import xgrammar
        from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

        on_gpu = settings.device.startswith("cuda") or (settings.device == "auto" and torch.cuda.is_available())
        device = (
            "cuda" if settings.device == "auto" and on_gpu else "cpu" if settings.device == "auto" else settings.device
        )
        dtype = settings.dtype if settings.dtype != "auto" else "bfloat16" if on_gpu else "float32"
        self._settings = settings
        self._processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self._network = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True
        )
        self._network.to(device).eval()
        vocabulary = xgrammar.TokenizerInfo.from_huggingface(
            self._processor.tokenizer, vocab_size=self._network.config.text_config.vocab_size
        )
        compiler = xgrammar.GrammarCompiler(vocabulary)

        @lru_cache(SCHEMAS)
        def compiled(schema: str) -> xgrammar.CompiledGrammar:
            return compiler.compile_json_schema(schema, any_whitespace=False, separators=(",", ":"))

        self._compiled = compiled

    def answer(self, question: Question) -> Answer:
        import torch
        from xgrammar.contrib.hf import LogitsProcessor

        inputs = self._inputs(question)
        grammar = self._compiled(json.dumps(question.schema))
        warm = self._settings.temperature > 0
        devices = [self._network.device] if self._network.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(question.seed)
            said = self._network.generate(
                **inputs,
                max_new_tokens=self._settings.max_tokens,
                do_sample=warm,
                # As vLLM does, and not as the checkpoint asks: its top_k of 1 would make every seed the same.
                **({"temperature": self._settings.temperature, "top_p": 1.0, "top_k": 0} if warm else {}),
                repetition_penalty=1.0,
                logits_processor=[LogitsProcessor(grammar)],
            )[0, inputs["input_ids"].shape[1] :]
        ends = self._network.generation_config.eos_token_id
        complete = int(said[-1]) in (ends if isinstance(ends, list) else [ends])
        return Answer(self._processor.decode(said, skip_special_tokens=True), complete)

    def _inputs(self, question: Question) -> dict[str, torch.Tensor]:
        shown = turn(question, self._settings.max_pixels)
        text = chat(self._processor, shown)
        inputs: Any = self._processor(text=[text], images=shown.images or None, return_tensors="pt")
        return inputs.to(self._network.device)
