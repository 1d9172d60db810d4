"""Fixtures that more than one test file uses."""

import studio  # isort: skip - before torch: it sets how OpenMP's threads wait

from browser import chromium, page_home, server, tiny_model, visitor

__all__ = ["chromium", "page_home", "server", "studio", "tiny_model", "visitor"]
