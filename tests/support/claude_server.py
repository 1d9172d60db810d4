"""Claude on this machine: a server that speaks the Messages API, answers from it, and a writer that asks it.

`conftest.py` makes the fixtures `claude` and `writer` known to every test.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from studio.prompting.cache import PromptCache
from studio.prompting.claude import ClaudeWriter
from studio.prompting.writers import PromptRequest

REQUEST = PromptRequest(emotion="sad", style="formal", text="1boy with black hair in the rain")
GOOD = {
    "emotion": ["sad", "tears", "crying", "frown"],
    "style": ["formal style", "suit"],
    "details": ["black hair", "rain"],
    "negative": ["smile", "blurry", "watermark"],
    "confidence": 0.93,
    "notes": ["Rain fits the mood."],
}
REVIEW = {
    "ambiguity": {"score": 2, "words": ["bow"], "reason": "Bow: knot or weapon."},
    "conflicts": {"score": 0, "words": [], "reason": ""},
    "rare_words": {"score": 1.5, "words": ["nonesuch"], "reason": "<b>rare</b>"},
    "attackability": {"score": 6, "words": ["sad"], "reason": "Said once."},
    "repaired": "1girl, sad, tears, hair bow",
}


def message(answer: Any, stop_reason: str = "end_turn") -> dict[str, Any]:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [{"type": "text", "text": text}],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 800, "output_tokens": 120},
    }


class FakeClaude(ThreadingHTTPServer):
    """Answers each request with the next of `script`; the last one again when it is used up."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of these tests."""


class _Handler(BaseHTTPRequestHandler):
    server: FakeClaude

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append({"path": self.path, **json.loads(body)})
        self.server.headers.append(dict(self.headers.items()))
        place = min(len(self.server.requests), len(self.server.script)) - 1
        self.server.script[place](self)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


def reply(status: int, body: Any, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return send


def failure(status: int, kind: str, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return reply(status, {"type": "error", "error": {"type": kind, "message": "said by the server"}}, **headers)


def hang(handler: BaseHTTPRequestHandler) -> None:
    handler.server.closing.wait(10)  # type: ignore[attr-defined]


def reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def unsure(confidence: float) -> Callable[[BaseHTTPRequestHandler], None]:
    return reply(200, message({**GOOD, "confidence": confidence, "notes": [f"It may be {confidence}."]}))


@pytest.fixture
def claude() -> Iterator[FakeClaude]:
    server = FakeClaude()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def writer(claude: FakeClaude, tmp_path: Path) -> Iterator[ClaudeWriter]:
    made = ClaudeWriter(
        "key", "claude-haiku-4-5", cache=PromptCache(tmp_path / "prompts.db"), base_url=claude.url, timeout=0.6
    )
    made.client.timeout = 5.0  # a slow machine isn't a failure, except in the test of the timeout
    yield made
    made.client.close()
