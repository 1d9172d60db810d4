"""Accepted jobs outlive their process: killed in the middle of everything, and taken up by another."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from support.checkpoints import tiny_sd
from support.job_queues import WAIT, House, steps

from studio.core.errors import DiskFull
from studio.core.specs import GenerateSpec
from studio.features.registry import parse_spec
from studio.jobs.job import Job
from studio.jobs.log import Orphan
from studio.jobs.queue import MOST_DEATHS
from studio.store.database import Database

REPOSITORY = Path(__file__).parents[2]
KEY = "a-key-that-is-long-enough"


def heir(one: House) -> House:
    """This house takes up what others have left."""

    def revive(orphan: Orphan) -> Job:
        spec = parse_spec(orphan.spec)
        assert isinstance(spec, GenerateSpec)
        return Job(spec, orphan.owner, pictures=one.pictures, id=orphan.view.id)

    one.jobs.take_over(revive)
    return one


def until(true: Callable[[], Any], seconds: float = WAIT) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_closing_leaves_accepted_jobs_to_the_next(house: Callable[..., House]) -> None:
    one = heir(house(lambda engine, job, spec: steps(job, 1000, 0.01)))
    running, waiting = one.submit(), one.submit("bob")
    until(lambda: one.jobs.view(running, "ann").done > 2)
    one.close()
    order: list[str] = []
    plain = house(lambda engine, job, spec: order.append(job.id))
    assert [plain.jobs.view(id, owner).state for id, owner in ((running, "ann"), (waiting, "bob"))] == ["queued"] * 2
    later = heir(house(lambda engine, job, spec: order.append(job.id)))
    until(lambda: later.jobs.view(waiting, "bob").state == "done")
    assert later.jobs.view(running, "ann").state == "done"
    assert sorted(order) == sorted([running, waiting])


def test_two_heirs_share_and_nothing_is_done_twice(house: Callable[..., House]) -> None:
    one = heir(house(lambda engine, job, spec: steps(job, 1000, 0.01)))
    ids = [one.submit(f"owner{number}") for number in range(12)]
    one.close()
    done: Counter[str] = Counter()

    def work(engine: object, job: Job, spec: GenerateSpec) -> None:
        time.sleep(0.02)
        done[job.id] += 1

    heirs = [heir(house(work)) for _ in range(2)]
    until(lambda: len(done) == len(ids))
    time.sleep(0.2)
    assert done == Counter(ids)
    assert {heirs[0].jobs.view(id, f"owner{number}").state for number, id in enumerate(ids)} == {"done"}


def test_a_job_that_is_waiting_elsewhere_is_cancelled_at_once(house: Callable[..., House]) -> None:
    gate, begun = threading.Event(), []

    def work(engine: object, job: Job, spec: GenerateSpec) -> None:
        begun.append(job.id)
        gate.wait(WAIT)

    one, other = house(work), house(work)
    first, second = one.submit(), one.submit()
    until(lambda: begun)
    assert other.jobs.cancel(second, "ann").state == "cancelled"
    assert other.jobs.view(second, "ann").state == "cancelled"
    gate.set()
    assert one.wait(second).state == "cancelled"
    assert one.wait(first).state == "done"
    assert begun == [first]


def test_what_was_cancelled_meanwhile_is_not_taken_up(house: Callable[..., House]) -> None:
    one = heir(house(lambda engine, job, spec: steps(job, 1000, 0.01)))
    id = one.submit()
    one.close()
    other = house(lambda engine, job, spec: None)
    assert other.jobs.cancel(id, "ann").state == "cancelled"
    done: list[str] = []
    heir(house(lambda engine, job, spec: done.append(job.id)))
    until(lambda: other.database.rows("SELECT 1 FROM jobs WHERE state = 'cancelled'"))
    assert done == []


def test_a_process_elsewhere_counts_as_alive_until_its_lease_is_over(house: Callable[..., House]) -> None:
    one = heir(house(lambda engine, job, spec: steps(job, 1000, 0.01)))
    id = one.submit()
    until(lambda: one.jobs.view(id, "ann").done > 2)
    other = house(lambda engine, job, spec: None)
    own = one.log.processes.own

    def lease(expires: float, host: str = "another computer") -> None:
        with other.database.transaction() as connection:
            connection.execute("UPDATE leases SET host = ?, expires = ? WHERE process = ?", (host, expires, own))

    lease(time.time() + 100)
    assert other.log.orphans() == ()
    lease(time.time() - 1)
    [orphan] = other.log.orphans()
    assert (orphan.view.id, orphan.deaths) == (id, 1)
    assert other.log.take(orphan)
    assert not other.log.take(orphan)  # once
    until(lambda: id not in one.jobs._jobs)  # the first one lives after all, and notices that it has lost the job
    assert other.jobs.view(id, "ann").state == "running"


def test_what_ends_every_process_is_not_tried_for_ever(house: Callable[..., House]) -> None:
    one = heir(house(lambda engine, job, spec: steps(job, 1000, 0.01)))
    id = one.submit()
    one.close()
    with one_database(one) as connection:
        connection.execute("UPDATE jobs SET state = 'running', deaths = ?", (MOST_DEATHS - 1,))
    later = heir(house(lambda engine, job, spec: None))
    until(lambda: later.jobs.view(id, "ann").state == "failed")
    assert "ended 3 times while it worked on this" in str(later.jobs.view(id, "ann").error)


def one_database(one: House) -> Any:
    return Database(one.database.path).transaction()


def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    import sqlite3

    from studio.store.database import SCHEMA, VERSION

    connection = sqlite3.connect(tmp_path / "studio.db")
    connection.executescript(SCHEMA + "PRAGMA user_version = 1;")
    connection.execute("INSERT INTO jobs VALUES ('1', 'ann', 'p', 'done', 0, 1.0, '{}', '{}')")
    connection.commit()
    connection.close()
    database = Database(tmp_path / "studio.db")
    [row] = database.rows("SELECT * FROM jobs")
    assert (row["id"], row["kept"], row["deaths"]) == ("1", 0, 0)
    assert database.rows("PRAGMA user_version")[0][0] == VERSION
    database.close()


def test_a_full_disk_says_what_of_a_job_is_kept(house: Callable[..., House]) -> None:
    def work(engine: object, job: Job, spec: GenerateSpec) -> None:
        for number in range(2):
            job.save(Image.new("RGB", (8, 8), (number, 0, 0)), None)
        raise DiskFull("The disk is full.")

    one = house(work)
    view = one.wait(one.submit())
    assert view.error == "The disk is full. 2 of this job's pictures are kept; the same request draws the others."
    assert len(view.pictures) == 2


# --- the real server --------------------------------------------------------------------------------------------------


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], httpx.Client]]]:
    """Starts `python -m studio serve` over one home, any number of times."""
    tiny_sd(tmp_path / "models" / "tiny")
    children: list[subprocess.Popen[bytes]] = []

    def start() -> tuple[subprocess.Popen[bytes], httpx.Client]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = os.environ | {"STUDIO_HOME": str(tmp_path), "STUDIO_API_KEY": KEY, "STUDIO_DEVICE": "cpu",
                                    "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}  # fmt: skip
        child = subprocess.Popen(
            [sys.executable, "-m", "studio", "serve", "--port", str(port)],
            env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        children.append(child)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {KEY}"})

        def answers() -> bool:
            try:
                return client.get("/health").status_code == 200
            except httpx.HTTPError:
                return False

        until(answers, 120)
        return child, client

    yield start
    for child in children:
        child.kill()
        child.wait()


def test_killed_in_the_middle_every_accepted_picture_is_drawn_once(
    serving: Callable[[], tuple[subprocess.Popen[bytes], httpx.Client]],
) -> None:
    child, client = serving()
    request = {"model": "tiny", "prompt": "red hair", "steps": 12, "count": 3}
    ids = [client.post("/v1/jobs", json=request | {"seed": 100 * n}).json()["id"] for n in range(5)]
    until(lambda: len(client.get("/v1/images").json()) >= 4, 120)
    before = {picture["id"]: picture["created"] for picture in client.get("/v1/images").json()}
    child.send_signal(signal.SIGKILL)
    child.wait()
    client.close()
    _, client = serving()
    until(lambda: {client.get(f"/v1/jobs/{id}").json()["state"] for id in ids} == {"done"}, 240)
    jobs = [client.get(f"/v1/jobs/{id}").json() for id in ids]
    pictures = client.get("/v1/images", params={"limit": 200}).json()
    seeds = sorted(picture["recipe"]["seed"] for picture in pictures)
    assert seeds == sorted(100 * n + k for n in range(5) for k in range(3))
    assert sorted(id for job in jobs for id in job["pictures"]) == sorted(picture["id"] for picture in pictures)
    assert set(before) <= {picture["id"] for picture in pictures}
    assert [job["cached"] for job in jobs] == [[]] * 5  # what a job drew itself was not "there already"
    client.close()
