"""Trainers: each is a process of its own, spawned by name, that reads one run folder and writes into it."""
