"""Claude in trouble, and Claude's opinion of a prompt, against a server on this machine."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from support.claude_server import GOOD, REQUEST, REVIEW, FakeClaude, failure, hang, message, reply, reset

from studio.core.settings import Settings
from studio.prompting.claude import ClaudeWriter
from studio.prompting.writers import PromptResult
from studio.service import Studio


@pytest.mark.parametrize(
    ("trouble", "calls"),
    [
        (hang, 1),
        (reset, 1),
        (failure(500, "api_error", retry_after="0"), 2),
        (failure(529, "overloaded_error", retry_after="0"), 2),
    ],
    ids=["timeout", "connection", "500", "529"],
)
def test_trouble_leaves_claude_alone_for_a_while(
    claude: FakeClaude, writer: ClaudeWriter, monkeypatch: pytest.MonkeyPatch, trouble: Any, calls: int
) -> None:
    claude.script = [trouble]
    if trouble is hang:
        writer.client.timeout = writer.timeout = 0.3
    first = writer.write(REQUEST)
    assert first.notes == writer.write(REQUEST).notes
    assert "offline instead" in writer.write(REQUEST.model_copy(update={"text": "red hair"})).notes[0]
    assert "Claude" in writer.review("1girl, sad").note
    assert len(claude.requests) == calls  # one write, with its one short retry where that can help
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 70)
    writer.client.timeout = 5.0
    claude.script = [reply(200, message(GOOD))]
    assert writer.write(REQUEST).writer == "claude"


def test_what_failed_for_one_input_is_not_sent_again_at_once(
    claude: FakeClaude, writer: ClaudeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    claude.script = [reply(200, message("not what was asked for"))]
    first = writer.write(REQUEST)
    again = writer.write(REQUEST)
    assert len(claude.requests) == 1
    assert again.notes == first.notes
    assert (first.tokens_in, again.tokens_in, writer.spent().calls) == (800, 0, 1)
    claude.script = [reply(200, message(GOOD))]
    assert writer.write(REQUEST.model_copy(update={"seed": 1})).writer == "claude", "another input isn't held up"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert writer.write(REQUEST).writer == "claude"


def test_two_who_ask_the_same_at_once_pay_once(claude: FakeClaude, writer: ClaudeWriter) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.3)
        reply(200, message(GOOD))(handler)

    claude.script = [slow]
    found: list[PromptResult] = []
    threads = [threading.Thread(target=lambda: found.append(writer.write(REQUEST))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claude.requests) == 1
    assert sorted(result.cached for result in found) == [False, True, True]


def test_claude_reviews_a_prompt(claude: FakeClaude, writer: ClaudeWriter) -> None:
    claude.script = [reply(200, message(REVIEW))]
    found = writer.review("1girl, sad, bow")
    assert found.writer == "claude"
    assert found.repaired == "1girl, sad, tears, hair bow"
    assert found.ambiguity.words == ("bow",)
    assert found.rare_words.words == (), "a word that doesn't stand in the prompt can't be at fault"
    assert "<" not in found.rare_words.reason
    assert found.worst == 6
    assert writer.spent().tokens_in == 800
    assert writer.review("1girl, sad, bow") == found
    assert len(claude.requests) == 1, "a review is paid for once"


def test_a_review_goes_through_the_service(claude: FakeClaude, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, anthropic_api_key="key", anthropic_base_url=claude.url, _env_file=None)
    studio = Studio(settings)
    try:
        claude.script = [reply(200, message(REVIEW))]
        assert studio.prompts.claude_writes
        assert studio.prompts.review("1girl, sad, bow").writer == "claude"
        assert studio.prompts.validate("1girl, sad, bow").writer == "offline"
        assert studio.prompts.spent().tokens_in == 800
    finally:
        assert isinstance(studio.prompts._writer, ClaudeWriter)
        studio.prompts._writer.client.close()
        studio.close()
    without = Studio(settings.model_copy(update={"offline": True}))
    assert not without.prompts.claude_writes
    assert without.prompts.review("1girl, sad, bow") == without.prompts.validate("1girl, sad, bow")
    assert without.prompts.spent().calls == 0
    without.close()


@pytest.mark.parametrize(
    "repaired", ["1girl, <lora:x:2>", "(sad:1.5)", "photo by greg rutkowski", "sad\x07", "s\u0430d"]
)
def test_a_repair_that_brings_in_strange_things_is_not_shown(
    claude: FakeClaude, writer: ClaudeWriter, repaired: str
) -> None:
    claude.script = [reply(200, message({**REVIEW, "repaired": repaired}))]
    assert writer.review("1girl, sad, bow").repaired == "1girl, sad, bow, sorrowful, unhappy, tearful"


def test_a_failed_review_is_the_offline_one_with_a_note(claude: FakeClaude, writer: ClaudeWriter) -> None:
    claude.script = [failure(401, "authentication_error")]
    found = writer.review("1girl, sad")
    assert found.writer == "offline"
    assert "API key" in found.note
