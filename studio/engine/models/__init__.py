"""Models on disk and in memory: what there is, how it is loaded, what is attached to it."""
