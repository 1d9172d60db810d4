"""How the embedded model is made: draw characters, train each part on them, measure, assemble.

Every step is a module with `--help`, resumable, and leaves its state in a folder outside the checkout:
`corpus` (paint) -> `judge` -> `vae` -> `latents` -> `text_tower` -> `unet` -> `assemble`. Nothing that runs in the
studio imports this package; it needs the `pretraining` extra (skia-python).
"""

HELD_OUT = 100  # drawings at the end of every shard, which no network is trained on
