"""Anime Character Studio: make a character, give it emotions, animate it, teach it a style, make it fast."""

import os

# Threads that wait for each other must soon sleep: with anything else running (a training beside the pages), spinning
# made a picture on two cores take 140 seconds instead of 2. At once is too soon: to wake up takes longer than a layer
# of a small model, and asking its UNet once takes 78 ms instead of 55. OpenMP reads this once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # about ten microseconds; GNU's OpenMP, which torch brings on Linux

__version__ = "0.1.0"
