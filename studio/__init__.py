"""Anime Character Studio: make a character, give it emotions, animate it, teach it a style, make it fast."""

import os

# Threads that wait for each other must sleep, not spin: with anything else running (a training beside the pages),
# spinning made a picture on two cores take 140 seconds instead of 2. OpenMP reads this once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
