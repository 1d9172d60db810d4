"""Anime Character Studio: make a character, give it emotions, animate it, teach it a style, make it fast."""

__version__ = "0.1.0"
