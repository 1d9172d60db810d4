"""Fixtures that more than one test file uses."""

from browser import chromium, page_home, server, tiny_model, visitor

__all__ = ["chromium", "page_home", "server", "tiny_model", "visitor"]
