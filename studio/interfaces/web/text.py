"""Names that more than one page shows, and how numbers are said to people. Sentences of one page stand in that page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import ValidationError

from studio.core.errors import explain
from studio.core.fields import describe
from studio.core.i18n import _, ngettext, texts, translated
from studio.core.specs import EMOTIONS, STYLES, GenerateSpec, Recipe
from studio.core.views import Picture

EMOTION_NAMES, STYLE_NAMES, QUALITY_NAMES, SAMPLER_NAMES = (
    describe(GenerateSpec, name).about.names for name in ("emotion", "style", "quality", "sampler")
)
EMOTION_ICONS = {
    "happy": ":material/sentiment_very_satisfied:",
    "angry": ":material/sentiment_extremely_dissatisfied:",
    "sad": ":material/sentiment_dissatisfied:",
    "surprised": ":material/sentiment_excited:",
    "calm": ":material/self_improvement:",
}
KIND_NAMES = {
    "picture": "Pictures",
    "sheet": "Sheets",
    "grid": "Grids",
    "sketch": "From sketches",
    "animation": "Animations",
    "report": "Reports",
}
KIND_NAMES = texts(KIND_NAMES, "kind of picture")
MODEL_NAMES = {"embedded": "Embedded anime characters"}  # by reference: models that come with the studio
MODEL_NAMES = texts(MODEL_NAMES)
PAGE_NAMES = {  # file name: what the navigation calls it, and its icon
    "generate": ("Generate", ":material/auto_awesome:"),
    "emotion_morph": ("Emotion morph", ":material/theater_comedy:"),
    "sketch_to_character": ("Sketch to character", ":material/draw:"),
    "retouch": ("Retouch", ":material/ink_eraser:"),
    "img2img_animation": ("Animation", ":material/animation:"),
    "train_lora": ("Train a LoRA", ":material/school:"),
    "distill_lcm": ("Distill LCM", ":material/bolt:"),
    "gallery": ("Gallery", ":material/photo_library:"),
    "system": ("System", ":material/memory:"),
}
PAGE_NAMES = texts(PAGE_NAMES)


def emotion_label(emotion: str) -> str:
    """An emotion with its face, for pills and buttons."""
    return f"{EMOTION_ICONS[emotion]} {EMOTION_NAMES[emotion]}"


def duration(seconds: float) -> str:
    """ "8 s", "3 min", "2 h 5 min": as exact as somebody who waits wants it."""
    if seconds < 90:
        return _("{seconds} s").format(seconds=max(1, round(seconds)))
    minutes = round(seconds / 60)
    if minutes < 90:
        return _("{minutes} min").format(minutes=minutes)
    return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)


def size(count: int) -> str:
    """Bytes as people read them, in powers of 1000 as file managers show them."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in ("bytes", "kB") or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def plural(count: int, one: str, many: str | None = None) -> str:
    """ "1 picture", "4 pictures"."""
    return ngettext(f"{{count}} {one}", f"{{count}} {many or one + 's'}", count).format(count=f"{count:,}")


def escape(text: str) -> str:
    """Text of people or models as literal Markdown: nothing in it becomes a link, a picture, a colour or a formula."""
    return "".join("\\" + letter if letter in "\\`*_{}[]()<>#+-.!|~$:&" else letter for letter in text)


def say(sentence: object) -> str:
    """A sentence of the studio (an error, a note) in the language that is spoken, as literal Markdown."""
    return escape(translated(str(sentence)))


def mistake(error: ValidationError) -> str:
    """What is wrong with a form's fields, as literal Markdown."""
    field, rest = re.fullmatch(r"([\w.]*)(.*)", explain(error), re.DOTALL).groups()  # type: ignore[union-attr]
    return escape(field.replace("_", " ").capitalize() + rest)


def summary(recipe: Recipe) -> str:
    """One line that says how a picture was made."""
    parts = [
        _("seed {seed}").format(seed=recipe.seed),
        plural(recipe.steps, "step"),
        SAMPLER_NAMES.get(recipe.sampler, recipe.sampler),
    ]
    if recipe.guidance > 1:
        parts.append(_("guidance {guidance}").format(guidance=f"{recipe.guidance:g}"))
    parts.append("{} × {}".format(*recipe.size))
    if recipe.loras:
        parts.append(plural(len(recipe.loras), "LoRA"))
    if attempts := recipe.labels.get("attempts"):
        parts.append(_("drawn {attempts} times, the best one kept").format(attempts=attempts))
    return " · ".join(parts)


def description(recipe: Recipe | None, fallback: str = "") -> str:
    """What a picture shows, for its title and for screen readers."""
    fallback = fallback or _("Picture")
    if recipe is None:
        return fallback
    emotion, style = recipe.labels.get("emotion"), recipe.labels.get("style")
    named = [EMOTION_NAMES.get(emotion or "", ""), STYLE_NAMES.get(style or "", "").lower()]
    return ", ".join(part for part in named if part) or recipe.prompt[:60] or fallback


def name(picture: Picture) -> str:
    """What a picture is called: its words, then its own emotion and style, which its title doesn't know.

    The title is that of the request: every tile of a sheet has the same one, and so has the sheet. Where nothing was
    typed it is the request's emotion and style, and says nothing of a tile.
    """
    words = "" if picture.title in AUTOMATIC else picture.title
    if picture.kind in ("sheet", "grid"):
        columns, rows = (picture.details.get(part) or () for part in ("columns", "rows"))
        counts = [
            plural(len(labels), one) if len(labels) > 1 else STYLE_NAMES.get("".join(labels), "")
            for labels, one in ((columns, _axis(columns)), (rows, _axis(rows)))
        ]
        own = ", ".join(part for part in counts if part)
        return " · ".join(part for part in (words, own) if part) or description(picture.recipe)
    labels = picture.recipe.labels if picture.recipe else {}
    own = description(picture.recipe) if words and labels.get("emotion") and picture.kind == "picture" else ""
    return " · ".join(part for part in (words, own) if part) or description(picture.recipe)


AUTOMATIC = {f"{emotion}, {style}" for emotion in EMOTIONS for style in STYLES}  # titles, see `recipes._title`


def _axis(labels: Sequence[str]) -> str:
    if labels and set(labels) <= set(EMOTIONS):
        return "emotion"
    return "style" if labels and set(labels) <= set(STYLES) else "value"
