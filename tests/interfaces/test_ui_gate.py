"""The front door: closed without a password beyond this computer, closed with one until it was typed."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocket, WebSocketDisconnect
from support.browser import REPOSITORY

from studio.core import net
from studio.core.settings import Settings
from studio.interfaces.web import gate, identity

KEY = bytes(range(32))
HTML = {"Accept": "text/html,application/xhtml+xml"}
PASSWORD = "correct horse"


async def _page(request: object) -> PlainTextResponse:
    return PlainTextResponse("inside")


async def _socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("inside")
    await websocket.close()


def client(password: str | None, address: str = "http://127.0.0.1:8501") -> TestClient:
    inner = Starlette(
        routes=[
            WebSocketRoute("/_stcore/stream", _socket),
            Route("/{path:path}", _page, methods=["GET", "POST", "PUT"]),
        ]
    )
    return TestClient(gate.Gate(inner, KEY, password), base_url=address, follow_redirects=False)


@pytest.fixture
def closed() -> Iterator[TestClient]:
    with client(PASSWORD, "https://studio.example") as visitor:
        yield visitor


def stream(visitor: TestClient) -> WebSocketTestSession:
    address = str(visitor.base_url).replace("http", "ws", 1)
    return visitor.websocket_connect(f"{address}/_stcore/stream")


def login(visitor: TestClient, password: str = PASSWORD, target: str = "/gallery") -> int:
    answer = visitor.post(gate.LOGIN, params={"next": target}, data={"password": password})
    return answer.status_code


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]", "studio.localhost", "LOCALHOST."]
)
def test_these_names_are_this_computer(host: str) -> None:
    assert net.is_loopback(host)


@pytest.mark.parametrize("host", [None, "", "0.0.0.0", "::", "192.168.0.7", "example.com", "127.0.0.1.example.com"])
def test_these_are_not(host: str | None) -> None:
    assert not net.is_loopback(host)


def test_beyond_loopback_a_password_is_needed(tmp_path: Path) -> None:
    plain = Settings(home=tmp_path, password=None)
    gate.check(plain, "127.0.0.1")
    for address in ("0.0.0.0", "", None, "192.168.0.7"):
        with pytest.raises(ValueError, match="STUDIO_PASSWORD is not set"):
            gate.check(plain, address)
    gate.check(Settings(home=tmp_path, password=SecretStr("x")), "0.0.0.0")


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_an_empty_password_is_a_mistake_and_not_an_open_door(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match="set but empty"):
        gate.check(Settings(home=tmp_path, password=SecretStr("  ")), address)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"STREAMLIT_SERVER_ADDRESS": "0.0.0.0"}, "STUDIO_PASSWORD is not set"),
        ({"STUDIO_PASSWORD": ""}, "set but empty"),
        ({"STUDIO_QUEUE_LIMIT": "many"}, "STUDIO_QUEUE_LIMIT"),
        ({"STUDIO_HOME": "/dev/null/home"}, "can't write to /dev/null/home"),
    ],
)
def test_the_app_refuses_to_start_with_one_sentence(tmp_path: Path, variables: dict[str, str], sentence: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STUDIO_")}
    done = subprocess.run(
        [sys.executable, "-m", "streamlit", "run", "streamlit_app.py", "--server.headless=true", "--server.port=0"],
        cwd=REPOSITORY,
        env=environment | {"STUDIO_HOME": str(tmp_path)} | variables,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_password_only_this_computer_is_answered() -> None:
    with client(None) as visitor:
        assert visitor.get("/gallery", headers=HTML).text == "inside"
        with stream(visitor) as socket:
            assert socket.receive_text() == "inside"
    with client(None, "https://abc.trycloudflare.com") as visitor:
        for path in ("/", "/media/x.png", "/app/static/mark.svg", gate.LOGIN):
            answer = visitor.get(path, headers=HTML)
            assert answer.status_code == 403
            assert "STUDIO_PASSWORD" in answer.text
        with pytest.raises(WebSocketDisconnect), stream(visitor):
            pass


def test_a_connection_that_came_in_on_another_address_is_refused() -> None:
    scope_server: list[tuple[str, int]] = [("192.168.0.7", 8501)]
    inner = gate.Gate(Starlette(routes=[Route("/", _page)]), KEY, None)

    async def from_outside(scope: dict, receive: object, send: object) -> None:
        await inner({**scope, "server": scope_server[0]}, receive, send)  # type: ignore[arg-type]

    with TestClient(from_outside, base_url="http://127.0.0.1:8501") as visitor:  # type: ignore[arg-type]
        assert visitor.get("/").status_code == 403
        scope_server[0] = ("127.0.0.1", 8501)
        assert visitor.get("/").status_code == 200


def test_with_a_password_nothing_is_given_out_before_it_was_typed(closed: TestClient) -> None:
    for path in ("/", "/gallery?picture=1", "/system"):
        answer = closed.get(path, headers=HTML)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith(gate.LOGIN)
    for path in ("/media/x.png", "/_stcore/host-config", "/static/index.js", "/_stcore/stream", "/studio-login/x"):
        assert closed.get(path).status_code == 401
    assert closed.put("/_stcore/upload_file/a/b").status_code == 401
    with pytest.raises(WebSocketDisconnect), stream(closed):
        pass
    assert closed.get(gate.HEALTH).status_code == 200
    assert closed.get("/app/static/mark.svg").status_code == 200


def test_the_right_password_opens_and_leads_on(closed: TestClient) -> None:
    form = closed.get("/gallery?picture=1", headers=HTML, follow_redirects=True)
    assert "<form" in form.text
    answer = closed.post(str(form.url), data={"password": PASSWORD})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/gallery?picture=1"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" in cookie
    assert closed.get("/gallery", headers=HTML).text == "inside"
    with stream(closed) as socket:
        assert socket.receive_text() == "inside"
    cookie = dict(closed.cookies)
    assert closed.get(gate.LOGOUT, headers=HTML).status_code == 303
    for name, value in cookie.items():  # as somebody has it who copied it before
        closed.cookies.set(name, value)
    assert closed.get("/_stcore/host-config").status_code == 401
    closed.cookies.clear()
    assert closed.get("/gallery", headers=HTML).status_code == 303


def test_a_login_ends_with_a_new_password_or_a_forged_cookie(closed: TestClient) -> None:
    assert login(closed) == 303
    name = identity.cookie_name("login", KEY)
    value = closed.cookies[name]
    with client("another one", "https://studio.example") as visitor:
        visitor.cookies.set(name, value)
        assert visitor.get("/").status_code == 401
    # not its last letter: base64 leaves bits of that unused
    for forged in (
        value[:-5] + ("A" if value[-5] != "A" else "B") + value[-4:],
        "in",
        "",
        identity.signer("owner", KEY).sign("x").decode(),
    ):
        with client(PASSWORD, "https://studio.example") as visitor:
            visitor.cookies.set(name, forged)
            assert visitor.get("/").status_code == 401


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that tries had to wait; the clock stands still and nobody really waits."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(gate.time, "monotonic", lambda: 1000.0)
    monkeypatch.setattr(gate.asyncio, "sleep", sleep)
    return slept


IN_LINE = gate.FREE_TRIES + int(gate.LONGEST_WAIT / gate.PAUSE)


def test_guessing_is_slowed_down_and_nobody_is_locked_out(
    closed: TestClient, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(gate.FREE_TRIES):
        assert login(closed, "guess") == 401
    assert pauses == []
    assert login(closed, PASSWORD) == 303  # it only waits
    assert pauses == [gate.PAUSE]
    monkeypatch.setattr(gate.time, "monotonic", lambda: 1000.0 + (gate.FREE_TRIES + 1) * gate.PAUSE)
    closed.cookies.clear()
    assert login(closed, "guess") == 401
    assert pauses == [gate.PAUSE]


def test_a_browser_that_has_been_in_does_not_wait_behind_strangers(closed: TestClient, pauses: list[float]) -> None:
    assert login(closed) == 303
    del closed.cookies[identity.cookie_name("login", KEY)]  # logged out, or run out
    with TestClient(closed.app, base_url="https://studio.example", follow_redirects=False) as stranger:
        for _ in range(IN_LINE - 1):
            assert login(stranger, "guess") == 401
        answer = stranger.post(gate.LOGIN, data={"password": PASSWORD})
        assert answer.status_code == 429  # the right one too: a guesser mustn't learn which it was
        assert int(answer.headers["retry-after"]) > 0
        stranger.cookies.set(identity.cookie_name("known", KEY), "made up")
        assert login(stranger, PASSWORD) == 429
    before = len(pauses)
    assert login(closed) == 303
    assert len(pauses) == before


def test_forms_that_are_held_back_do_not_share_one_try(pauses: list[float]) -> None:
    door = gate.Gate(Starlette(), KEY, PASSWORD)
    scope = {"type": "http", "method": "POST", "path": gate.LOGIN, "query_string": b"", "headers": [],
             "client": ("127.0.0.1", 1), "scheme": "http", "server": ("127.0.0.1", 8501)}  # fmt: skip
    statuses: list[int] = []

    async def all_at_once() -> None:
        rest = asyncio.Event()

        async def receive() -> dict[str, object]:
            await rest.wait()
            return {"type": "http.request", "body": b"password=guess", "more_body": False}

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(int(str(message["status"])))

        tries = [asyncio.ensure_future(door(dict(scope), receive, send)) for _ in range(100)]  # type: ignore[arg-type]
        for _ in range(5):
            await _tick()
        rest.set()
        await asyncio.gather(*tries)

    with ThreadPoolExecutor(1) as thread:  # the browser's tests leave a loop running in this one
        thread.submit(asyncio.run, all_at_once()).result()
    assert (statuses.count(401), statuses.count(429)) == (IN_LINE, 100 - IN_LINE)
    assert max(pauses) == gate.LONGEST_WAIT


async def _tick() -> None:
    passed = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(passed.set_result, None)
    await passed


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "CF-Connecting-IP", "CF-Ray", "Via", "X-Real-IP"]
)
def test_a_tunnel_that_rewrites_the_host_finds_the_door_shut(name: str) -> None:
    with client(None, "http://localhost:8501") as visitor:
        assert visitor.get("/", headers=HTML).status_code == 200
        assert visitor.get("/", headers=HTML | {name: "203.0.113.9"}).status_code == 403


def test_a_huge_login_form_is_not_read(closed: TestClient) -> None:
    assert login(closed, "x" * 100_000) == 413


@given(st.text(max_size=40))
def test_after_the_login_one_stays_in_the_studio(target: str) -> None:
    for value in (target, "/" + target, "//" + target, "/\\" + target, "https://" + target):
        found = gate._local_target(value)
        assert found.startswith("/")
        assert not found.startswith(("//", "/\\"))


def test_the_first_page_is_found_by_its_name_too() -> None:
    with client(None) as visitor:
        assert visitor.get("/generate?job=1", headers=HTML).headers["location"] == "/?job=1"
        assert visitor.get("/generate", headers=HTML).headers["location"] == "/"


def test_each_browser_gets_one_lasting_id() -> None:
    name = identity.cookie_name("owner", KEY)
    with client(None) as first, client(None) as second:
        answer = first.get("/", headers=HTML)
        assert "httponly" in answer.headers["set-cookie"].lower()
        mine = identity.read_owner(first.cookies[name], KEY)
        assert mine
        assert "set-cookie" not in first.get("/gallery", headers=HTML).headers
        assert "set-cookie" not in second.get("/media/x.png").headers  # parts of a page don't make ids
        second.get("/", headers=HTML)
        assert identity.read_owner(second.cookies[name], KEY) not in (None, mine)
        assert identity.read_owner(mine, KEY) is None
        assert identity.read_owner(first.cookies[name], bytes(32)) is None


def test_the_key_is_made_once_and_only_its_user_reads_it(tmp_path: Path) -> None:
    key = identity.signing_key(tmp_path)
    assert len(key) == 32
    assert identity.signing_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]
    (tmp_path / "secret.key").write_bytes(b"short")
    with pytest.raises(ValueError, match="damaged"):
        identity.signing_key(tmp_path)
