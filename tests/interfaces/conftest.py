"""Fixtures of the command line's tests."""

from support.verbs import home, model, run

__all__ = ["home", "model", "run"]
