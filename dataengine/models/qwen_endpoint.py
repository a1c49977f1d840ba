"""Qwen2.5-VL on servers that run elsewhere and speak OpenAI's protocol, one or a fleet behind one address.

Serve it as the engine of `qwen_vllm` is started, or answers may differ; above all, only the server can forbid free
white space in JSON:

    vllm serve Qwen/Qwen2.5-VL-7B-Instruct --max-model-len 16384 --limit-mm-per-prompt '{"image": 64, "video": 0}'
        --mm-processor-kwargs '{"max_pixels": 602112}'
        --structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}'

Images are sent as PNG, at the size at which the model sees them: what the server decodes is what a local engine gets.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
from typing import TYPE_CHECKING, Any

from PIL.Image import Image as Picture

from dataengine.config import QwenSettings
from dataengine.models.interfaces import Answer, Question
from dataengine.models.qwen_messages import Turn, turn
from dataengine.stage import BadInput, Outage
from dataengine.weights import Needs

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

KEY = "OPENAI_API_KEY"


class EndpointError(RuntimeError):
    """The server did not answer a question; the message names it."""


class EndpointUnusable(EndpointError, Outage):
    """The server is away, overloaded or refuses us: no question is to blame, so the run stops."""


class EndpointQwen:
    """Implements `VisionLanguageModel`."""

    name = "qwen2.5-vl"
    needs = Needs(packages=("openai",))

    def __init__(self, settings: QwenSettings) -> None:
        self._settings = settings
        self._endpoint = settings.endpoint
        self._model = settings.endpoint.model
        self._client: AsyncOpenAI | None = None
        self._room = asyncio.Semaphore(settings.endpoint.concurrency)

    @property
    def revision(self) -> str:
        return f"endpoint {self._endpoint.model}".rstrip()

    def load(self) -> None:
        """Find out which model is served. Raises `EndpointError` when the server cannot be used."""
        from openai import APIConnectionError, APIStatusError, AsyncOpenAI, OpenAI

        # An empty key would be refused here; a server that wants none ignores it.
        common: dict[str, Any] = {
            "base_url": self._endpoint.url,
            "api_key": os.environ.get(KEY) or "none",
            "max_retries": self._endpoint.retries,
            "timeout": self._endpoint.timeout_s,
        }
        try:
            with OpenAI(**common) as client:
                served = [model.id for model in client.models.list()]
        except APIConnectionError as error:
            raise self._lost(error) from ConnectionError(str(error))
        except APIStatusError as error:
            raise self._refused(error) from error
        self._model = self._chosen(served)
        self._client = AsyncOpenAI(**common)

    def _chosen(self, served: list[str]) -> str:
        if self._endpoint.model:
            if self._endpoint.model not in served:
                raise EndpointUnusable(
                    f"{self._endpoint.url} serves {', '.join(served)}, and not {self._endpoint.model} (endpoint.model)"
                )
            return self._endpoint.model
        if len(served) != 1:
            raise EndpointUnusable(f"{self._endpoint.url} serves {', '.join(served) or 'nothing'}: set endpoint.model")
        return served[0]

    async def answer(self, question: Question) -> Answer:
        """What it says. Raises `BadInput` for a question that the server refuses, `EndpointUnusable` when the server is
        away or refuses us, `EndpointError` when it breaks on the question or does not answer it in time.

        Of what may pass (no connection, no answer in time, a server that is overloaded or broken) the cause is a
        `ConnectionError` or `TimeoutError`, after as many retries as the settings allow.
        """
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        if self._client is None:
            raise RuntimeError("EndpointQwen.load() must be called before answer()")
        async with self._room:
            request = await asyncio.to_thread(self.request, question)
            try:
                completion = await self._client.chat.completions.create(**request)
            except APITimeoutError as error:
                raise EndpointError(self._silent(error)) from TimeoutError(str(error))
            except APIConnectionError as error:
                raise self._lost(error) from ConnectionError(str(error))
            except APIStatusError as error:
                raise self._refused(error) from _cause(error)
        choice = completion.choices[0]
        return Answer(choice.message.content or "", complete=choice.finish_reason == "stop")

    def request(self, question: Question) -> dict[str, Any]:
        """What is sent. Raises `BadInput` for an image that cannot be shown."""
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": _content(turn(question, self._settings.max_pixels))}],
            "temperature": self._settings.temperature,
            "top_p": 1.0,
            "seed": question.seed,
            "max_tokens": self._settings.max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": dict(question.schema)},
            },
            # vLLM takes what is not said here from the checkpoint, and Qwen's wants a top_k of 1: no seed would matter.
            "extra_body": {"top_k": 0, "repetition_penalty": 1.0},
        }

    def _lost(self, error: Exception) -> EndpointError:
        return EndpointUnusable(self._silent(error))

    def _silent(self, error: Exception) -> str:
        return f"{self._endpoint.url} did not answer ({error}); is the server up (endpoint.url)?"

    def _refused(self, error: APIStatusError) -> Exception:
        where, said = self._endpoint.url, f"HTTP {error.status_code}: {_said(error)}"
        if error.status_code in (401, 403):
            return EndpointUnusable(f"{where} refuses the key in {KEY} ({said}): set {KEY} to one that it knows")
        if error.status_code == 404:
            return EndpointUnusable(
                f"{where} does not know the address or the model ({said}): endpoint.url, endpoint.model"
            )
        if _may_pass(error):
            # One question may break a server (500); one that is overloaded or behind a dead gateway breaks on all.
            kind = EndpointUnusable if error.status_code in (429, 502, 503, 504) else EndpointError
            return kind(f"{where} cannot answer now ({said})")
        return BadInput(f"{where} refuses the question ({said})")


def _may_pass(error: APIStatusError) -> bool:
    return error.status_code in (408, 409, 425, 429) or error.status_code >= 500


def _cause(error: APIStatusError) -> BaseException:
    return ConnectionError(f"HTTP {error.status_code}") if _may_pass(error) else error


def _said(error: APIStatusError) -> str:
    """What the server says is wrong, cut short: it may repeat the images."""
    body = error.body
    return str(body.get("message", body) if isinstance(body, dict) else error.message)[:500]


def _content(shown: Turn) -> list[Any]:
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": _data_uri(part)}}
        for part in shown.parts
    ]


def _data_uri(picture: Picture) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
