"""Recipes inside picture files: written, and read whoever wrote them."""

from studio.store.metadata.facts import ReadRecipe
from studio.store.metadata.reading import FRAME, Named, known_loras, left_out, own, read, request_of
from studio.store.metadata.writing import CHUNK, parameters, png, portable

__all__ = [
    "CHUNK",
    "FRAME",
    "Named",
    "ReadRecipe",
    "known_loras",
    "left_out",
    "own",
    "parameters",
    "png",
    "portable",
    "read",
    "request_of",
]
