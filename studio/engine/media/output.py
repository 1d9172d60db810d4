"""Frames to files: GIF, APNG, WebP, MP4, a ZIP of PNGs, a filmstrip, and the sprite set of chat front ends.

Knows how animations are packed, not how their frames were made, and loads no torch. Every file is written beside its
place and moved there when it is whole. A recipe (any JSON text) goes inside where the format has room for one.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from studio.core.errors import BadInput, DiskFull, StudioError
from studio.core.specs import AnimationFormat, Emotion
from studio.engine.media.flow import fill
from studio.engine.motion.timing import durations, pingpong

Frame = Image.Image | Path

# An APNG is a PNG: under this name every program shows at least its first frame.
SUFFIXES: dict[AnimationFormat, str] = {"gif": ".gif", "apng": ".png", "webp": ".webp", "mp4": ".mp4", "zip": ".zip"}
RECIPE_KEY = "studio"
GIF_FPS = 50  # browsers show a delay below 20 ms as one of 100 ms

# The labels of GoEmotions (2005.00547, table 1), which chat front ends use as file names, and the emotion that shows
# each. None: none of the five faces says it honestly.
GOEMOTIONS: dict[str, Emotion | None] = {
    "admiration": "happy",
    "amusement": "happy",
    "anger": "angry",
    "annoyance": "angry",
    "approval": "calm",
    "caring": "calm",
    "confusion": None,
    "curiosity": None,
    "desire": None,
    "disappointment": "sad",
    "disapproval": "angry",
    "disgust": "angry",
    "embarrassment": None,
    "excitement": "happy",
    "fear": None,
    "gratitude": "happy",
    "grief": "sad",
    "joy": "happy",
    "love": "happy",
    "nervousness": None,
    "neutral": "calm",
    "optimism": "happy",
    "pride": "happy",
    "realization": "surprised",
    "relief": "calm",
    "remorse": "sad",
    "sadness": "sad",
    "surprise": "surprised",
}

_BAYER = np.array([[0, 2], [3, 1]])
for _ in range(2):  # 8x8 thresholds, 0..63
    _BAYER = np.block([[4 * _BAYER, 4 * _BAYER + 2], [4 * _BAYER + 3, 4 * _BAYER + 1]])


def write(
    frames: Sequence[Frame],
    path: Path,
    form: AnimationFormat,
    fps: int = 8,
    holds: Sequence[int] = (),
    recipe: str = "",
) -> Path:
    """Write an endless loop of `frames` (pictures or PNG files of one size) to `path`, and return it.

    `holds[k]` is for how many frames' time frame k stays (1 each where it is empty). `recipe` is stored inside: as a
    comment (GIF, MP4), a text chunk (APNG), EXIF (WebP) or `recipe.json` (ZIP). PNG files go into a ZIP as they are,
    each with the recipe of its own. A GIF plays at `GIF_FPS` at most: leave out in-betweens beyond that (`arrange`).
    Raises BadInput for no frames or mixed sizes, DiskFull where there is no room.
    """
    if not frames:
        raise BadInput("There are no frames to write; make some first.")
    holds = list(holds) or [1] * len(frames)
    sizes = {_size(frame) for frame in frames}
    if len(sizes) > 1:
        raise BadInput(f"All frames must have one size; these have {len(sizes)} different ones.")
    partial = path.with_name(f".{path.name}.part{SUFFIXES[form]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = {"gif": _gif, "apng": _apng, "webp": _webp, "mp4": _mp4, "zip": _zip}[form]
    try:
        writer(frames, partial, fps, holds, recipe)
        os.replace(partial, path)
    except OSError as error:
        if error.errno == 28:
            raise DiskFull(f"There is no room on the disk for {path.name}.") from error
        raise
    finally:
        partial.unlink(missing_ok=True)
    return path


def arrange(
    frames: Sequence[Frame], holds: Sequence[int] = (), loop_back: bool = False, inbetweens: int = 0
) -> tuple[list[Frame], list[int]]:
    """The order in which frames are shown, and for how many frames' time each.

    `inbetweens` pictures are put between two frames by optical flow; play the result `inbetweens + 1` times as fast.
    The frames themselves stay what they are, files files.
    `loop_back` shows everything again backwards, without doubled ends.
    """
    shown: list[Frame] = list(frames)
    times = list(holds) or [1] * len(shown)
    if inbetweens:
        shown = list(fill([open_frame(frame) for frame in frames], inbetweens))
        shown[:: inbetweens + 1] = frames
        # a frame that is held for n frames' time keeps its n; its in-betweens take the time of one
        spread = [1] * len(shown)
        for index, hold in enumerate(times):
            spread[index * (inbetweens + 1)] = 1 + (hold - 1) * (inbetweens + 1)
        times = spread
    return (pingpong(shown), pingpong(times)) if loop_back else (shown, times)


def open_frame(frame: Frame) -> Image.Image:
    """The picture itself, RGB; what is transparent becomes white."""
    if isinstance(frame, Path):
        with Image.open(frame) as opened:
            opened.load()
            frame = opened
    if frame.mode in ("RGBA", "LA", "PA") or "transparency" in frame.info:
        colours = frame.convert("RGBA")
        frame = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return frame.convert("RGB")


def png(image: Image.Image, recipe: str = "") -> bytes:
    """One PNG with its recipe in a text chunk."""
    stream = BytesIO()
    image.save(stream, "PNG", pnginfo=_text_chunk(recipe))
    return stream.getvalue()


def filmstrip(frames: Sequence[Frame], height: int = 128, gap: int = 4) -> Image.Image:
    """All frames side by side on a transparent ground, scaled to `height` px."""
    pictures = [open_frame(frame) for frame in frames]
    scaled = [
        p.resize((max(1, round(p.width * height / p.height)), height), Image.Resampling.LANCZOS) for p in pictures
    ]
    strip = Image.new("RGBA", (sum(p.width for p in scaled) + gap * (len(scaled) - 1), height))
    left = 0
    for picture in scaled:
        strip.paste(picture, (left, 0))
        left += picture.width + gap
    return strip


def sprites(pictures: Mapping[Emotion, Frame], path: Path) -> Path:
    """Write the emotion sprite set: one PNG per GoEmotions label that `pictures` can show, in a ZIP.

    PNG files go in as they are, each with the recipe of its own. `sprites.json` inside names the emotion behind every
    file and the labels without one.
    """
    if not pictures:
        raise BadInput("There are no pictures for a sprite set; choose at least one emotion.")
    shown = {label: emotion for label, emotion in GOEMOTIONS.items() if emotion in pictures}
    missing = [label for label in GOEMOTIONS if label not in shown]
    encoded = {emotion: _as_png(frame) for emotion, frame in pictures.items()}
    about = {"files": shown, "without_a_picture": missing}
    partial = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(partial, "w") as archive:
        for label, emotion in shown.items():
            assert emotion is not None
            archive.writestr(_entry(f"{label}.png"), encoded[emotion])
        archive.writestr(_entry("sprites.json"), json.dumps(about, indent=1, ensure_ascii=False))
    os.replace(partial, path)
    return path


def _as_png(frame: Frame) -> bytes:
    if isinstance(frame, Path) and frame.suffix == ".png":
        return frame.read_bytes()
    return png(open_frame(frame))


def _size(frame: Frame) -> tuple[int, int]:
    if isinstance(frame, Path):
        with Image.open(frame) as opened:
            return opened.size
    return frame.size


def _parsed(recipe: str) -> object:
    return json.loads(recipe) if recipe else None


def _text_chunk(recipe: str) -> PngImagePlugin.PngInfo | None:
    if not recipe:
        return None
    info = PngImagePlugin.PngInfo()
    info.add_itxt(RECIPE_KEY, recipe)
    return info


# --- GIF: 256 colours ---------------------------------------------------------------------------------------------


def palette(frames: Sequence[Frame], colours: int = 255) -> Image.Image:
    """One palette for all frames, as a P-mode picture.

    Colours are counted in boxes of 8 levels and weighted by the root of their count, so that a small red mark beside a
    large plain background keeps its colour; then median cut, then k-means.
    """
    seen: dict[int, np.ndarray] = {}
    for frame in frames:
        picture = open_frame(frame)
        picture.thumbnail((256, 256), Image.Resampling.NEAREST)
        pixels = np.asarray(picture).reshape(-1, 3).astype(np.int64)
        boxes = (pixels[:, 0] >> 3 << 10) | (pixels[:, 1] >> 3 << 5) | (pixels[:, 2] >> 3)
        names, cells, counts = np.unique(boxes, return_inverse=True, return_counts=True)
        sums = np.stack([np.bincount(cells, pixels[:, c]) for c in range(3)] + [counts], 1)
        for name, row in zip(names.tolist(), sums, strict=True):
            seen[name] = seen.get(name, 0) + row
    table = np.stack(list(seen.values()))
    means = np.rint(table[:, :3] / table[:, 3:]).astype(np.uint8)
    repeats = np.ceil(np.sqrt(table[:, 3])).astype(int)
    sample = np.repeat(means, repeats, axis=0)
    return Image.fromarray(sample[None]).quantize(colours, Image.Quantize.MEDIANCUT, kmeans=3)


def to_palette(frame: Image.Image, colours: Image.Image) -> Image.Image:
    """`frame` in the colours of a palette: plain where that is good enough (40 dB), else with ordered dithering.

    Error diffusion hides banding better in a still, but its grain crawls from frame to frame and no longer compresses;
    a fixed Bayer pattern stays where it is.
    """
    plain = frame.quantize(palette=colours, dither=Image.Dither.NONE)
    wanted = np.asarray(frame).astype(np.float32)
    error = np.square(wanted - np.asarray(plain.convert("RGB"))).mean()
    if error < 255**2 / 10**4:
        return plain
    spread = 2 * np.sqrt(error)  # about the distance to the next colour of the palette
    height, width = wanted.shape[:2]
    tile = np.tile(_BAYER, (height // 8 + 1, width // 8 + 1))[:height, :width, None]
    dithered = np.clip(wanted + ((tile + 0.5) / 64 - 0.5) * spread, 0, 255).astype(np.uint8)
    return Image.fromarray(dithered).quantize(palette=colours, dither=Image.Dither.NONE)


def _gif(frames: Sequence[Frame], path: Path, fps: int, holds: Sequence[int], recipe: str) -> None:
    colours = palette(frames)
    first, *rest = [to_palette(open_frame(frame), colours) for frame in frames]
    first.save(
        path,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=durations(len(frames), min(fps, GIF_FPS), holds),
        loop=0,
        optimize=False,  # would reorder the palette of every frame
        comment=recipe.encode(),
    )


def _apng(frames: Sequence[Frame], path: Path, fps: int, holds: Sequence[int], recipe: str) -> None:
    times = durations(len(frames), fps, holds, unit_ms=1)
    first, *rest = map(open_frame, frames)
    first.save(path, "PNG", save_all=True, append_images=rest, duration=times, loop=0, pnginfo=_text_chunk(recipe))


def _webp(frames: Sequence[Frame], path: Path, fps: int, holds: Sequence[int], recipe: str) -> None:
    exif = Image.Exif()
    if recipe:
        exif[0x010E] = json.dumps(_parsed(recipe))  # ImageDescription; ASCII, as EXIF wants it
    times = durations(len(frames), fps, holds, unit_ms=1)
    first, *rest = map(open_frame, frames)
    first.save(
        path,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=times,
        loop=0,
        quality=92,
        method=4,
        exif=exif.tobytes().removeprefix(b"Exif\0\0"),  # a JPEG's prefix: in WebP the chunk begins with the TIFF header
    )


# --- MP4 ----------------------------------------------------------------------------------------------------------


def _mp4(frames: Sequence[Frame], path: Path, fps: int, holds: Sequence[int], recipe: str) -> None:
    """H.264 as phones and browsers want it: yuv420p, even sides, BT.709 named, the index first.

    An odd side grows by one pixel, a copy of its neighbour.
    """
    import imageio_ffmpeg

    width, height = _size(frames[0])
    even = (width + width % 2, height + height % 2)
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *("-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{even[0]}x{even[1]}"),
        *("-r", str(fps), "-i", "-", "-an", "-c:v", "libx264", "-preset", "medium", "-crf", "16"),
        *("-vf", "scale=out_color_matrix=bt709:out_range=tv", "-pix_fmt", "yuv420p"),
        *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"),
        *("-movflags", "+faststart", "-metadata", f"comment={recipe}", str(path)),
    ]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors)
        assert process.stdin is not None
        try:
            for frame, hold in zip(frames, holds, strict=True):
                pixels = np.asarray(open_frame(frame))
                pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                for _ in range(hold):
                    process.stdin.write(pixels.tobytes())
            process.stdin.close()
        except BrokenPipeError:
            pass  # the encoder gave up; its own words follow below
        if process.wait():
            errors.seek(0)
            reason = errors.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise StudioError(f"The video could not be encoded ({reason[-1][:200]}); choose GIF or WebP instead.")


# --- ZIP ----------------------------------------------------------------------------------------------------------


def _entry(name: str) -> zipfile.ZipInfo:
    # The same frames give the same bytes: no clock in the file. PNGs are compressed already.
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def _zip(frames: Sequence[Frame], path: Path, fps: int, holds: Sequence[int], recipe: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for k, frame in enumerate(frames):
            archive.writestr(_entry(f"frame-{k + 1:03d}.png"), _as_png(frame))
        timing = {"fps": fps, "holds": list(holds), "recipe": _parsed(recipe)}
        archive.writestr(_entry("recipe.json"), json.dumps(timing, indent=1, ensure_ascii=False))
