"""Fixtures that more than one test file uses."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.setdefault("STUDIO_WARM_UP", "false")  # a test that shows a page draws nothing, as a rule

import studio  # isort: skip - before torch: it sets how OpenMP's threads wait

import gc

import hypothesis
import pytest
from support.browser import chromium, page_home, server, tiny_model, visitor
from support.claude_server import claude, writer
from support.job_queues import house
from support.sdxl import sdxl

__all__ = ["chromium", "claude", "house", "page_home", "sdxl", "server", "studio", "tiny_model", "visitor", "writer"]

# How long one example takes is a matter of what else the machine does, not of what is tested.
hypothesis.settings.register_profile("studio", deadline=None)
hypothesis.settings.load_profile("studio")


# Files that take longest, longest first: spread over processes, one that begins last would be waited for.
LONG = (
    "test_ui_train", "test_lcm", "test_half_precision", "test_motion_jobs", "test_lora_resume", "test_lcm_faults",
    "test_sdxl_training", "test_lora_run", "test_notebook", "test_ui_gallery", "test_browser", "test_embedded",
    "test_windows", "test_several_processes", "test_survival", "test_damaged_files", "test_ui_distill",
    "test_retouch_page", "test_one_gallery", "test_retouching_networks",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, the others as they stand."""
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores, since some wait for browsers and servers; each takes a gigabyte or two."""
    return min(4, (os.cpu_count() or 1) + 1)


def pytest_collection_finish() -> None:
    """What is imported by now stays: hundreds of garbage collections needn't look through half a second of it again."""
    gc.collect()
    gc.freeze()
