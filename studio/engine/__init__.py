"""The engine: models in, pictures out. Knows nothing of jobs, owners, pages or the store.

Import the modules, not the package: `families`, `models` and `progress` load without torch, the rest needs it.
"""
