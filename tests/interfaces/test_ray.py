"""Two replicas on Ray Serve over one store: followed through either, and one of them killed in the middle."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support.checkpoints import tiny_sd

from studio.client import Client, Refused
from studio.core.settings import REPOSITORY, Settings
from studio.interfaces.api import serve as deployment

ray = pytest.importorskip("ray", reason='needs Ray: pip install "ray[serve]"')
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray warns of much

KEY = "a-key-that-is-long-enough"
REQUESTS = 200
WAIT = 600.0


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from ray import serve

    tiny_sd(tmp_path / "models" / "tiny")
    settings = {"STUDIO_HOME": str(tmp_path), "STUDIO_API_KEY": KEY, "STUDIO_DEVICE": "cpu", "STUDIO_MODEL": "tiny",
                "STUDIO_QUEUE_LIMIT": "1000", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY),
                "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(deployment.build(Settings(_env_file=None), replicas=2))
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def replicas() -> list[psutil.Process]:
    """The processes of this test's replicas."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "ServeReplica" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def accepted(client: Client, number: int) -> str:
    """A job's id, once some replica has said that it has it: under one name, however often it has to be sent."""
    request = {"model": "tiny", "prompt": "red hair", "steps": 4, "seed": number}
    deadline = time.monotonic() + WAIT
    while True:
        try:
            return client.submit(request, once=f"request {number}").id
        except (Refused, httpx.TransportError) as error:
            if (isinstance(error, Refused) and error.status < 500) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_a_replica_is_killed_and_every_accepted_request_ends_with_its_picture_once(address: str) -> None:
    until(lambda: len(replicas()) == 2)
    with Client(address, KEY) as client:
        halfway, ids = threading.Event(), {}

        def send(number: int) -> None:
            ids[number] = accepted(client, number)
            if len(ids) >= REQUESTS * 0.4:
                halfway.set()

        with ThreadPoolExecutor(8) as pool:
            sent = [pool.submit(send, number) for number in range(REQUESTS)]
            assert halfway.wait(WAIT)
            doomed = replicas()[0]
            os.kill(doomed.pid, signal.SIGKILL)
            for one in sent:
                one.result()
        assert len(set(ids.values())) == REQUESTS
        jobs = {}

        def over() -> bool:
            for number, id in ids.items():
                if number not in jobs:
                    try:
                        view = client.job(id)
                    except Refused as error:
                        if error.status < 500:  # else it is the replica that is gone; it is replaced
                            raise
                        return False
                    if view.active:
                        return False
                    jobs[number] = view
            return True

        until(over)
        assert {job.state for job in jobs.values()} == {"done"}
        assert {len(job.pictures) for job in jobs.values()} == {1}
        pictures = client.images(limit=200)
        assert sorted(one.recipe.seed for one in pictures if one.recipe) == list(range(REQUESTS))  # each once
        assert {one.id for one in pictures} == {job.pictures[0] for job in jobs.values()}
        for number in (0, REQUESTS // 2, REQUESTS - 1):
            assert client.image(jobs[number].pictures[0])[:4] == b"\x89PNG"
        until(lambda: len([one for one in replicas() if one.pid != doomed.pid]) == 2)  # it was replaced
        # followed and cancelled through whichever replica is asked
        long = client.submit({"model": "tiny", "prompt": "long", "steps": 50, "count": 64})
        asked = [httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}) for _ in range(6)]
        assert {one.get(f"/v1/jobs/{long.id}").status_code for one in asked} == {200}
        assert asked[0].post(f"/v1/jobs/{long.id}/cancel").status_code == 200
        until(lambda: client.job(long.id).state == "cancelled")
        for one in asked:
            one.close()
