"""Does a face detector that never saw our drawings find faces in what the model draws: `python faces.py DRAWN PAINTED`.

The detector is the PyPI package `animeface`, trained on anime. It finds nothing under newer versions of Pillow, and
nothing in dark skins, so it runs in an environment of its own (`pip install animeface pillow==9.5.0`), which this file
needs nothing else in, on folders of pictures with light skins: `benchmarks.embedded --out` leaves the drawn ones in
`best` and `fast` (the judge says which skins are light), `--paint N` makes N painted ones with the studio's own Python.
"""

import argparse
import json
from pathlib import Path


def paint(folder: Path, count: int) -> None:
    """Painted characters with light skins, as files."""
    import random

    from studio.pretraining.painter import paint as painted
    from studio.pretraining.painter import sample_spec

    rng = random.Random(77)
    folder.mkdir(parents=True, exist_ok=True)
    made = 0
    while made < count:
        spec = sample_spec(rng)
        if spec.skin in ("pale skin", "fair skin"):
            painted(spec, 256, 700_000 + made).save(folder / f"light-{made:03d}.png")
            made += 1


def share(folder: Path) -> dict[str, float]:
    """Pictures of a folder, and the share of them in which a face is found."""
    import animeface
    from PIL import Image

    files = sorted(folder.glob("light-*.png"))
    hits = sum(bool(animeface.detect(Image.open(file).convert("RGB"))) for file in files)
    return {"pictures": len(files), "with_face": hits / max(1, len(files))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--paint", type=int, help="paint so many characters into the folder and end")
    args = parser.parse_args()
    if args.paint:
        paint(args.folders[0], args.paint)
    else:
        print(json.dumps({folder.name: share(folder) for folder in args.folders}, indent=1))
