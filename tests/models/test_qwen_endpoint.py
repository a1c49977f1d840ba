"""Questions over HTTP, against a small server that answers, refuses and fails as it is told."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import pickle
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataengine.config import EndpointSettings, QwenSettings
from dataengine.engine.worker import may_pass
from dataengine.models.interfaces import Answer, Question
from dataengine.models.qwen_endpoint import EndpointError, EndpointQwen
from dataengine.models.qwen_messages import turn
from dataengine.stage import BadInput, Outage

SCHEMA = {"type": "object", "properties": {"caption": {"type": "string"}}, "required": ["caption"]}
PICTURE = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
MAX_PIXELS = 50176


class Server:
    """Answers each chat request with the next of `statuses` (200 when there are none left)."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.models = ["tiny"]
        self.pause_s = 0.0
        self.finish = "stop"
        self.busy = self.most = 0
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.keys.add(self.headers["Authorization"])
                status = server.statuses.pop(0) if server.statuses else 200
                self.say(status, {"object": "list", "data": [{"id": m, "object": "model"} for m in server.models]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append(body)
                    status = server.statuses.pop(0) if server.statuses else 200
                    server.busy += 1
                    server.most = max(server.most, server.busy)
                time.sleep(server.pause_s)
                with server.lock:
                    server.busy -= 1
                message = {"role": "assistant", "content": '{"caption":"a wall"}'}
                choice = {"index": 0, "message": message, "finish_reason": server.finish}
                self.say(status, {"id": "1", "object": "chat.completion", "model": "tiny", "choices": [choice]})

            def say(self, status: int, body: dict[str, Any]) -> None:
                said = json.dumps(body if status == 200 else {"error": {"message": f"told to say {status}"}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    here = Server()
    yield here
    here.close()


def question(seed: int = 0) -> Question:
    return Question(("Look:", PICTURE, "Describe this."), SCHEMA, seed)


def loaded(server: Server, **settings: Any) -> EndpointQwen:
    endpoint = EndpointSettings(url=server.url, **{"retries": 0, **settings})
    model = pickle.loads(pickle.dumps(EndpointQwen(QwenSettings(max_pixels=MAX_PIXELS, endpoint=endpoint))))
    model.load()
    return model


def ask(model: EndpointQwen, questions: Sequence[Question]) -> list[Answer]:
    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*map(model.answer, questions))

    return asyncio.run(all_at_once())


def test_what_is_sent_is_what_the_model_is_to_see(server: Server) -> None:
    assert ask(loaded(server), [question(7)]) == [Answer('{"caption":"a wall"}', complete=True)]
    (sent,) = server.requests
    assert (sent["model"], sent["seed"], sent["temperature"], sent["top_p"]) == ("tiny", 7, 0.1, 1.0)
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA
    before, shown, after = sent["messages"][0]["content"]
    assert (before["text"], after["text"]) == ("Look:", "Describe this.")
    png = base64.b64decode(shown["image_url"]["url"].removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), turn(question(), MAX_PIXELS).images[0])


def test_an_answer_that_is_cut_off_says_so(server: Server) -> None:
    server.finish = "length"
    assert not ask(loaded(server), [question()])[0].complete


def test_a_server_that_is_overloaded_is_asked_again(server: Server) -> None:
    model = loaded(server, retries=2)
    server.statuses = [503, 429]
    assert ask(model, [question()])[0].complete
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_told_from_what_will_not(server: Server, status: int) -> None:
    model = loaded(server, retries=1)
    server.statuses = [status, status]
    with pytest.raises(EndpointError, match=f"HTTP {status}: told to say {status}") as caught:
        ask(model, [question()])
    assert may_pass(caught.value)
    assert isinstance(caught.value, Outage) == (status != 500), "one question may break a server"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_that_is_refused_is_bad_input_at_once(server: Server, status: int) -> None:
    model = loaded(server, retries=3)
    server.statuses = [status]
    with pytest.raises(BadInput, match=f"told to say {status}") as caught:
        ask(model, [question()])
    assert not may_pass(caught.value)
    assert len(server.requests) == 1


def test_a_key_that_is_refused_is_one_clear_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "mine")
    model = loaded(server)
    assert server.keys == {"Bearer mine"}
    server.statuses = [401]
    with pytest.raises(EndpointError, match="set OPENAI_API_KEY to one that it knows") as caught:
        ask(model, [question()])
    assert not may_pass(caught.value) and isinstance(caught.value, Outage)
    assert "mine" not in str(caught.value)
    server.statuses = [401]
    with pytest.raises(EndpointError, match="set OPENAI_API_KEY to one that it knows"):
        loaded(server)


def test_a_server_that_went_away_or_is_silent_may_come_back(server: Server) -> None:
    model = loaded(server, timeout_s=0.1)
    server.pause_s = 1.0
    with pytest.raises(EndpointError, match="did not answer") as caught:
        ask(model, [question()])
    assert isinstance(caught.value.__cause__, TimeoutError) and not isinstance(caught.value, Outage)
    server.close()
    with pytest.raises(EndpointError, match=r"did not answer.*endpoint\.url") as caught:
        ask(model, [question()])
    assert isinstance(caught.value.__cause__, ConnectionError) and isinstance(caught.value, Outage)
    with pytest.raises(EndpointError, match="did not answer"):
        loaded(server)


def test_no_more_requests_are_under_way_than_is_allowed(server: Server) -> None:
    model = loaded(server, concurrency=3)
    server.pause_s = 0.05
    assert len(ask(model, [question(seed) for seed in range(12)])) == 12
    assert server.most == 3


def test_the_model_is_the_one_that_is_served_or_the_one_that_is_named(server: Server) -> None:
    server.models = ["one", "other"]
    with pytest.raises(EndpointError, match=r"serves one, other: set endpoint\.model"):
        loaded(server)
    with pytest.raises(EndpointError, match="serves one, other, and not third"):
        loaded(server, model="third")
    model = loaded(server, model="other")
    ask(model, [question()])
    assert server.requests[0]["model"] == "other"
    assert model.revision == "endpoint other"
