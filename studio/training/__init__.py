"""Trainers: each is a process of its own, spawned by name, that reads one run folder and writes into it.

Importing this room looks first whether an installed xformers works: diffusers imports whatever is there, and one that
was built for another torch would keep every trainer from starting.
"""

from studio.engine import optimizations as optimizations
