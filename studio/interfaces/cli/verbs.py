"""A verb for each feature that has one: its options from the fields of its spec, its answer from the job's result.

What a feature adds beside its fields (a file of prompts, two ends of a morph) and how its result is told stands in
`VERBS`; a feature that isn't in it takes its fields and answers with its pictures.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from studio.core.errors import BadInput
from studio.core.fields import describe
from studio.core.specs import AnimationFormat, GenerateSpec, LoraRef
from studio.core.views import JobView
from studio.interfaces.cli import terminal
from studio.interfaces.cli.options import JSON, LORA, OFFLINE, command, nested, option, options, typed
from studio.interfaces.cli.terminal import OWNER
from studio.service import FEATURES, Studio, parse_spec

Answer = tuple[dict[str, Any], list[str]]  # JSON, and the lines for people
COMMON = [option("size", str | None, "Pixels: 512, or 512x768.", "--size"), LORA]
FOLDER = "Copy the files into this folder."
WRITTEN_FROM = ("emotion", "style", "quality", "text", "every_word", "model")  # what a prompt is written from, and for


@dataclass(frozen=True)
class Finished:
    """A job that is done, and where its files go."""

    studio: Studio
    view: JobView
    out: Path | None  # a folder
    file: Path | None  # the name of a single file
    seconds: float

    def copies(self, ids: list[str] | tuple[str, ...], prefix: str = "") -> list[str]:
        """Paths of the pictures, copied where that was asked for."""
        return terminal.save_to(self.studio, ids, self.out, prefix)

    def images(self, ids: list[str] | tuple[str, ...]) -> list[dict[str, Any]]:
        """The pictures as every verb tells them."""
        rows = []
        for id, path in zip(ids, self.copies(ids), strict=True):
            recipe = self.studio.picture(id, OWNER).recipe
            rows.append({"path": path, "seed": recipe.seed if recipe else None, "cached": id in self.view.cached})
        return rows


def pictures(done: Finished) -> Answer:
    """The pictures, and with what they were drawn."""
    images = done.images(done.view.pictures)
    keys: dict[str, Any] = {"images": images}
    recipe = done.studio.picture(done.view.pictures[0], OWNER).recipe
    if recipe is not None:
        keys |= {"prompt": recipe.prompt, "negative": recipe.negative, "model": recipe.model, "steps": recipe.steps}
        models = done.studio.models
        protected, loras = models.trigger_words(recipe.loras), [models.lora(ref.path) for ref in recipe.loras]
        left = recipe.labels.get("left_out", "")
        said = f"{recipe.prompt}, {left}"  # what was asked for, drawn or not
        unknown = done.studio.prompts.unknown_words(said, recipe.model, protected, loras)
        keys |= {"unknown_words": [one.model_dump() for one in unknown], "left_out": left.split(", ") if left else []}
    return keys | {"seconds": round(done.seconds, 3)}, [image["path"] for image in images]


def followed(done: Finished) -> Answer:
    """The pictures, and the lines that they followed."""
    shown = done.view.result["control_image"]
    images = done.images([id for id in done.view.pictures if id != shown])
    [control] = done.copies([shown], "control-")
    return {"images": images, "control_image": control}, [control, *(image["path"] for image in images)]


def retouched(done: Finished) -> Answer:
    """The pictures, and how visible their seams are."""
    images, seams = done.images(done.view.pictures), done.view.result["seams"]
    for id, image in zip(done.view.pictures, images, strict=True):
        image["seam"] = seams.get(id)
    return {"images": images, "seconds": round(done.seconds, 3)}, [image["path"] for image in images]


def enlarged(done: Finished) -> Answer:
    """The picture, and how large it is."""
    images = done.images(done.view.pictures)
    for id, image in zip(done.view.pictures, images, strict=True):
        picture = done.studio.picture(id, OWNER)
        image |= {"width": picture.width, "height": picture.height}
    return {"images": images, "seconds": round(done.seconds, 3)}, [image["path"] for image in images]


def animation(done: Finished) -> Answer:
    """The frames, the animation, and in a folder the filmstrip."""
    ids = done.view.result["frames"]
    frames = done.copies(ids, "frame-")
    made = terminal.save_one(done.studio, done.view.result["animation"], done.file, done.out, "animation-")
    filmstrip = terminal.save_filmstrip(done.studio, ids, done.out)
    recipe = done.studio.picture(ids[0], OWNER).recipe
    keys = {"frames": frames, "animation": made, "filmstrip": filmstrip, "seed": recipe.seed if recipe else None}
    return keys, [*frames, made, *([filmstrip] if filmstrip else [])]


def sprites(done: Finished) -> Answer:
    """The pictures and the ZIP of them."""
    frames = done.copies(done.view.result["frames"], "sprite-")
    packed = terminal.save_one(done.studio, done.view.result["sprites"], done.file, done.out, "sprites-")
    return {"frames": frames, "emotions": done.view.result["emotions"], "sprites": packed}, [*frames, packed]


def captions(done: Finished) -> Answer:
    """The captions that were written."""
    result = done.view.result
    rows = [{"file": file, "caption": text} for file, text in result["captions"].items()]
    lines = [f"{row['file']}: {row['caption']}" for row in rows]
    return result | {"captions": rows}, [*lines, f"{len(rows)} captions written, {result['kept']} kept."]


def drawing_request(studio: Studio, fields: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """One prompt, written by Claude where a key is there; or a file of them."""
    listed: Path | None = given["prompts"]
    if listed is not None:
        rows = studio.parse_rows(terminal.read_list(listed), listed.suffix.lower() == ".csv")
        return {"kind": "batch", "base": fields, "rows": [row.model_dump() for row in rows]}
    if "prompt" not in fields and not given["offline"]:
        words: dict[str, Any] = {name: fields[name] for name in WRITTEN_FROM if name in fields}
        refs = [terminal.spec(LoraRef, ref) for ref in fields.get("loras", ())]
        words["trigger_words"] = studio.models.trigger_words(refs)
        loras = [studio.models.lora(ref.path) for ref in refs]
        result = terminal.written(studio, words, fields.get("on_low_confidence", "run"), loras)
        fields["prompt"] = result.positive_prompt
        fields.setdefault("negative", result.negative_prompt)
    return fields


def _chain(studio: Studio, fields: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The emotions in order, or `--from` and `--to` as a chain of two."""
    if "emotions" not in fields:
        first, last = describe(FEATURES["morph"].spec, "emotions").default
        fields["emotions"] = [given["start"] or first, given["end"] or last]
    elif given["start"] is not None or given["end"] is not None:
        raise BadInput("A morph takes either --from and --to or a chain with --emotions, not both.")
    return _begun(studio, fields, given)


def _begun(studio: Studio, fields: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The character is drawn with the first of the emotions."""
    for emotion in fields.get("emotions", ())[:1]:
        fields["base"]["emotion"] = emotion
    return fields


@dataclass(frozen=True)
class Verb:
    """What a verb has beside the fields of its feature.

    `more` are options that aren't fields, `request` makes the whole request of both. `file`: the format of which
    `--out` may name a file ("any": every format of an animation; None: a folder only).
    """

    answer: Callable[[Finished], Answer] = pictures
    more: tuple[inspect.Parameter, ...] = ()
    request: Callable[[Studio, dict[str, Any], dict[str, Any]], dict[str, Any]] = lambda studio, fields, given: fields
    file: AnimationFormat | Literal["any"] | None = None
    out: str = FOLDER
    copies: bool = True  # its answer has files that `--out` copies


_ANY = (
    f"{FOLDER} A name that ends in .gif, .png (APNG), .apng, .webp, .mp4 or .zip: write only the animation, as this "
    "file and in its format."
)
VERBS: dict[str, Verb] = {
    "generate": Verb(
        more=(
            option(
                "prompts", Path | None, "A file: one prompt a line, CSV with prompt,seed,emotion, or JSON.", "--prompts"
            ),
            OFFLINE,
        ),
        request=drawing_request,
    ),
    "morph": Verb(
        animation,
        (
            option("start", str | None, "The first emotion; blank: happy.", "--from"),
            option("end", str | None, "The last emotion; blank: sad.", "--to"),
        ),
        _chain,
        file="any",
        out=_ANY,
    ),
    "animate": Verb(animation, request=_begun, file="any", out=_ANY),
    "sprites": Verb(sprites, file="zip", out=f"{FOLDER} A name that ends in .zip: write only the ZIP there."),
    "sketch": Verb(followed),
    "inpaint": Verb(retouched),
    "upscale": Verb(enlarged),
    "caption": Verb(captions, copies=False),
}


def add_verbs(app: typer.Typer) -> None:
    """Give `app` a command for each feature that has a verb."""
    for kind, feature in FEATURES.items():
        if feature.verb is not None:
            app.command(kind)(_verb(kind))


def _verb(kind: str) -> Callable[..., None]:
    feature, own = FEATURES[kind], VERBS.get(kind, Verb())
    assert feature.verb is not None
    without = set(feature.verb.without)
    parameters = options(feature.spec, without)
    for name, spec in nested(feature.spec).items():
        parameters += options(spec, prefix=f"{name}__")
    based = "base" in feature.spec.model_fields
    if based:
        taken = {one.name for one in parameters}
        parameters += options(GenerateSpec, without | taken, "base__")
    draws = based or feature.spec is GenerateSpec
    parameters += [*own.more, *(COMMON if draws else ())]
    if own.copies:
        parameters.append(option("out", Path | None, own.out, "--out"))
    return command(lambda **given: _run(kind, own, given), [*parameters, JSON], feature.verb.help)


def _run(kind: str, own: Verb, given: dict[str, Any]) -> None:
    studio, started, spec = terminal.open_studio(), time.monotonic(), FEATURES[kind].spec
    out: Path | None = given.get("out")
    file, form = None, None
    if own.file is not None:
        file, form = terminal.file_named(out, None if own.file == "any" else own.file)
    if file is not None:
        out = None
        if given.get("format") not in (None, form):
            raise BadInput(f"--format {given['format']} and {file} don't go together; leave one of them out.")
    terminal.check_folder(out)

    def picture(path: Path) -> str:
        return terminal.image_id(studio, path)

    fields = typed(spec, given, picture)
    for name, inner in nested(spec).items():
        fields[name] = typed(inner, given, picture, f"{name}__")
    if file is not None and own.file == "any":
        fields["format"] = form
    drawn = None
    if spec is GenerateSpec:
        drawn = fields
    elif "base" in spec.model_fields:
        drawn = fields["base"] = typed(GenerateSpec, given, picture, "base__")
    if drawn is not None:
        drawn |= terminal.sides(given["size"]) | terminal.only_given(loras=terminal.lora_refs(given["lora"]))
        drawn.setdefault("model", studio.settings.model)
    request = parse_spec({"kind": kind} | own.request(studio, fields, given))
    view = terminal.follow_job(studio, studio.submit(request, OWNER))
    answer, lines = own.answer(Finished(studio, view, out, file, time.monotonic() - started))
    terminal.answer(given["json"], answer, lines)
