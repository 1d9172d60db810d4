"""The main script: the frame around every page. Pages stand in `pages/`; one that isn't there is not listed."""

from __future__ import annotations

from studio.interfaces.web import frame

frame.begin()
