"""Fixtures that more than one test file uses."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.setdefault("STUDIO_WARM_UP", "false")  # a test that shows a page draws nothing, as a rule

import studio  # isort: skip - before torch: it sets how OpenMP's threads wait

import gc

import hypothesis
from support.browser import chromium, page_home, server, tiny_model, visitor
from support.claude_server import claude, writer
from support.job_queues import house
from support.sdxl import sdxl

__all__ = ["chromium", "claude", "house", "page_home", "sdxl", "server", "studio", "tiny_model", "visitor", "writer"]

# How long one example takes is a matter of what else the machine does, not of what is tested.
hypothesis.settings.register_profile("studio", deadline=None)
hypothesis.settings.load_profile("studio")


def pytest_collection_finish() -> None:
    """What is imported by now stays: hundreds of garbage collections needn't look through half a second of it again."""
    gc.collect()
    gc.freeze()
