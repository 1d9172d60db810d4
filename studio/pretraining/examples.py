"""Make `assets/examples`: a small LoRA data set in a look of its own, three sketches, and their README.

The look ("neonwave") is one that the embedded model never saw: characters lit by neon before a striped sun, made from
the painter's drawings by colour and light alone. Everything is deterministic.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .painter import CharacterSpec, hand_lines, line_art, paint, sample_spec, tags
from .painter.captions import BACKGROUND_TAGS
from .painter.colors import RGB
from .painter.spec import EMOTIONS

ROOT = Path(__file__).resolve().parents[2] / "assets" / "examples"
TRIGGER = "neonwave"
COUNT, SIZE = 32, 256

# Darkness to light of the character, and the two lamps.
RAMP: tuple[tuple[float, RGB], ...] = (
    (0.0, (22, 8, 52)), (0.22, (70, 18, 112)), (0.45, (188, 34, 146)), (0.68, (255, 104, 152)), (0.86, (255, 190, 180)),
    (1.0, (255, 244, 226)),
)  # fmt: skip
CYAN, AMBER = (64, 244, 255), (255, 176, 64)
KEPT_HUE = 0.34  # share of the drawing's own colour, so that hair and eye colours can still be told

SKETCHES: dict[str, tuple[CharacterSpec, int]] = {  # name: character, seed of the hand
    "girl_twintails": (
        CharacterSpec(hair_style="twintails", bangs="choppy", outfit="serafuku", turn=0.25, tilt=-4.0), 6,
    ),
    "boy_spiky_hair": (
        CharacterSpec(
            gender="boy", emotion="angry", variant=1, hair_style="spiky", hair_length="short", bangs="swept", turn=-0.3
        ), 4,
    ),
    "girl_bob_glasses": (
        CharacterSpec(
            emotion="calm", variant=2, hair_style="bob", hair_length="short", bangs="blunt", outfit="sweater",
            accessories=("glasses",), tilt=5.0,
        ), 4,
    ),
}  # fmt: skip

README = f"""# Examples

Free to use for anything: CC0 1.0 (public domain dedication), <https://creativecommons.org/publicdomain/zero/1.0/>.
No person and no other work is depicted or was used: every picture is drawn by the code of this repository.

| Folder | What it is |
|---|---|
| `style_1/` | For Train LoRA: {COUNT} pictures of {SIZE} px in one look, captions beside; trigger word `{TRIGGER}`. |
| `sketches/` | For Sketch to Character: three drawings, black on white, 512 px, with a prompt beside. |

The captions name everything that is *not* the look (who, hair, eyes, emotion, clothes), so that a LoRA learns the look
as the meaning of `{TRIGGER}`. The embedded model has never seen it.

Made by `python -m studio.pretraining.examples`, which draws the same pictures every time.
"""


def data_set() -> list[CharacterSpec]:
    """The characters: all emotions, about two girls to one boy, no two with the same hair."""
    rng, hair = random.Random(2718), set()
    chosen: list[CharacterSpec] = []
    while len(chosen) < COUNT:
        spec = sample_spec(
            rng, emotion=EMOTIONS[len(chosen) % len(EMOTIONS)], gender="boy" if len(chosen) % 3 == 2 else "girl",
            style="casual", background="plain", tip_color="",
        )  # fmt: skip
        look = (spec.hair_color, spec.hair_style)
        if look not in hair:
            hair.add(look)
            chosen.append(spec)
    return chosen


def subject(spec: CharacterSpec) -> list[str]:
    """The tags of a character without those of style and background."""
    background = {BACKGROUND_TAGS[spec.background], f"{spec.background_color} background"}
    return [tag for tag in tags(spec) if tag not in background | {f"{spec.style} style"}]


def caption(spec: CharacterSpec) -> str:
    """The trigger word, then all that is not the look."""
    return ", ".join([TRIGGER, *subject(spec)])


def neonwave(spec: CharacterSpec, seed: int, size: int = SIZE) -> Image.Image:
    """A character of the casual style, with a plain background, in the look of the data set (RGB)."""
    side = 2 * size
    color, alpha = _cut_out(spec, side, seed)
    grey = color @ np.array([0.3, 0.59, 0.11], np.float32)
    shares, tones = [share for share, _ in RAMP], np.array([tone for _, tone in RAMP], np.float32)
    tone = np.stack([np.interp(grey / 255, shares, tones[:, channel]) for channel in range(3)], -1)
    own = color * (tone.mean(-1, keepdims=True) / np.maximum(grey[..., None], 40))  # its hue at the ramp's brightness
    figure = tone + (np.clip(own, 0, 255) - tone) * KEPT_HUE

    # Light: darker towards the bottom, cyan from the left and amber from the right along the silhouette.
    y = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    figure = figure * (1.06 - 0.42 * y**1.5)
    for lamp, step in ((CYAN, 7), (AMBER, -6)):
        inner = np.roll(alpha, (step * side // 512, abs(step) * side // 1024), (1, 0))
        rim = cv2.GaussianBlur(np.clip(alpha - inner, 0, 1), (0, 0), side / 340)[..., None]
        figure = figure + (np.array(lamp, np.float32) - figure) * np.clip(rim * 1.1, 0, 0.95)
    ink = 1 - np.asarray(line_art(spec, side, seed), np.float32) / 255
    figure = figure + (np.array(RAMP[0][1], np.float32) - figure) * (ink * 0.85)[..., None]

    halo = cv2.GaussianBlur(alpha, (0, 0), side / 28)[..., None]
    stage = _striped_sun(side)
    stage = stage + (np.array((255, 60, 190), np.float32) - stage) * halo * 0.35
    picture = stage + (figure - stage) * alpha[..., None]
    glow = cv2.GaussianBlur(np.clip(picture - 150, 0, 255), (0, 0), side / 60)
    picture = 255 - (255 - picture) * (255 - np.clip(glow * 0.55, 0, 255)) / 255
    scaled = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return scaled.resize((size, size), Image.Resampling.LANCZOS)


def _cut_out(spec: CharacterSpec, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour (side, side, 3) and coverage (side, side; 0..1) of the character, from paintings on two backgrounds."""
    on = [
        np.asarray(paint(replace(spec, background_color=name), side, seed), np.float32) for name in ("white", "black")
    ]
    light, dark = on[0][2, 2], on[1][2, 2]
    alpha = np.clip(1 - ((on[0] - on[1]) / (light - dark)).mean(-1), 0, 1)
    color = (on[0] - light * (1 - alpha[..., None])) / np.maximum(alpha[..., None], 0.05)
    return np.clip(color, 0, 255), alpha


def _striped_sun(side: int) -> np.ndarray:
    """The background, (side, side, 3): night sky, and a low sun cut by stripes that widen downwards."""
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side
    y = rows[..., None]
    sky = np.array((20, 8, 60), np.float32) * (1 - y) + np.array((112, 22, 128), np.float32) * y
    sun = np.array((255, 214, 92), np.float32) * (1 - y) + np.array((255, 40, 140), np.float32) * y
    radius = np.hypot(columns - 0.5, rows - 0.46)
    disc = np.clip((0.43 - radius) * side / 2 + 0.5, 0, 1)
    depth = np.clip((rows - 0.34) / 0.55, 0, 1)
    stripes = np.clip((np.abs(((rows - 0.34) * 15) % 1 - 0.5) - (0.5 - 0.32 * depth)) * side / 30 + 0.5, 0, 1)
    disc = disc * np.where(rows > 0.34, 1 - stripes, 1)
    return sky + (sun - sky) * disc[..., None]


def sketch(name: str, size: int = 512) -> Image.Image:
    """One of `SKETCHES`, hand-like lines (L)."""
    spec, seed = SKETCHES[name]
    return hand_lines(line_art(spec, size, seed=3), random.Random(seed), missing=False)


def write(root: Path) -> None:
    """Everything, into `root`."""
    style, sketches = root / "style_1", root / "sketches"
    style.mkdir(parents=True, exist_ok=True)
    sketches.mkdir(parents=True, exist_ok=True)
    for i, spec in enumerate(data_set()):
        stem = style / f"{i + 1:02d}"
        neonwave(spec, i).save(stem.with_suffix(".jpg"), quality=94, subsampling=0, optimize=True)
        stem.with_suffix(".txt").write_text(caption(spec) + "\n")
    for name in SKETCHES:
        drawing = sketch(name).quantize(16, dither=Image.Dither.NONE)
        drawing.save(sketches / f"{name}.png", optimize=True)
        (sketches / f"{name}.txt").write_text(", ".join(subject(SKETCHES[name][0])) + "\n")
    (root / "README.md").write_text(README)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT, help="default: assets/examples of this checkout")
    write(parser.parse_args().out)
