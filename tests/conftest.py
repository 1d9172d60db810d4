"""Fixtures that more than one test file uses."""

from browser import chromium, page_home, server, tiny_model, visitor

import studio  # noqa: F401 - before torch: it sets how OpenMP waits

__all__ = ["chromium", "page_home", "server", "tiny_model", "visitor"]
