"""The command line: every verb is a few options, one call of the service, and what it answered.

`--json` prints one JSON object as the last line of standard output; progress goes to standard error. Exit codes: 0, 2
(the request was wrong: one sentence), 1 (something else went wrong: one sentence). No logic lives here.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from studio.core.errors import BadInput
from studio.core.settings import settings
from studio.interfaces.cli import files, terminal
from studio.interfaces.cli.terminal import (
    OWNER,
    Character,
    Doubtful,
    Emotion,
    Json,
    Loras,
    Model,
    Offline,
    Out,
    Prompt,
    Quality,
    Seed,
    Size,
    Source,
    Steps,
    Style,
    Text,
    answer,
    base_of,
    follow_job,
    image_id,
    only_said,
    open_studio,
    save_to,
)
from studio.interfaces.cli.training import distill, runs_app, train_control, train_lora
from studio.service import parse_spec

app = typer.Typer(
    name="studio",
    help=__doc__.split("\n")[0],
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(runs_app, name="runs")


@app.command()
def generate(
    emotion: Emotion = "happy",
    style: Style = "casual",
    quality: Quality = "standard",
    text: Text = "",
    prompt: Annotated[str | None, typer.Option(help="The whole prompt; nothing is written around it.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file: one prompt a line, or CSV with prompt,seed,emotion.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="The negative prompt.")] = None,
    on_low_confidence: Doubtful = "run",
    seed: Seed = None,
    count: Annotated[int, typer.Option(help="Pictures of each prompt, with seeds seed, seed+1, ...")] = 1,
    steps: Steps = None,
    guidance: Annotated[float | None, typer.Option(help="0 to 30.")] = None,
    sampler: Annotated[
        str, typer.Option(help="auto, dpmpp_2m, dpmpp_2m_karras, euler_a, ddim, unipc, lcm, tcd.")
    ] = "auto",
    size: Size = None,
    model: Model = None,
    lora: Loras = None,
    source: Source = None,
    strength: Annotated[float | None, typer.Option(help="How far to go from it, 0 to 1.")] = None,
    offline: Offline = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Draw pictures."""
    studio = open_studio()
    terminal.check_folder(out)
    started = time.monotonic()
    rows = studio.parse_rows(terminal.read_list(prompts), prompts.suffix.lower() == ".csv") if prompts else None
    base = base_of(
        studio, offline=offline or rows is not None, prompt=prompt, negative=negative, emotion=emotion, style=style,
        quality=quality, text=text or None, on_low_confidence=on_low_confidence, seed=seed, count=count, steps=steps,
        guidance=guidance, sampler=sampler, size=size, model=model, lora=lora, source=image_id(studio, source),
        strength=strength,
    )  # fmt: skip
    spec = parse_spec({"kind": "batch", "base": base, "rows": [r.model_dump() for r in rows]} if rows else base)
    view = follow_job(studio, studio.submit(spec, OWNER))
    images = [
        {"path": path, "seed": studio.picture(id, OWNER).recipe.seed, "cached": id in view.cached}  # type: ignore[union-attr]
        for id, path in zip(view.pictures, save_to(studio, view.pictures, out), strict=True)
    ]
    recipe = studio.picture(view.pictures[0], OWNER).recipe
    assert recipe is not None
    answer(json, {
        "images": images, "prompt": recipe.prompt, "negative": recipe.negative, "model": recipe.model,
        "steps": recipe.steps, "seconds": round(time.monotonic() - started, 3),
    }, [str(image["path"]) for image in images])  # fmt: skip


@app.command("prompt")
def write_prompt(
    emotion: Emotion = "happy",
    style: Style = "casual",
    quality: Quality = "standard",
    text: Text = "",
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Write a prompt and draw nothing."""
    result = terminal.written(
        open_studio(), {"emotion": emotion, "style": style, "quality": quality, "text": text, "offline": offline}
    )
    lines = [result.positive_prompt, f"Negative: {result.negative_prompt}", f"Confidence: {result.confidence:.2f}"]
    answer(json, result.model_dump(mode="json"), [*lines, *result.notes])


@app.command()
def harden(
    text: Annotated[str, typer.Argument(help="What was typed.")], protect: terminal.Protect = None, json: Json = False
) -> None:
    """Undo typos, look-alike glyphs and invisible characters."""
    terminal.harden(open_studio(), text, protect, json)


@app.command()
def morph(
    start: Annotated[str | None, typer.Option("--from", help="The first emotion; blank: happy.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="The last emotion; blank: sad.")] = None,
    emotions: terminal.Emotions = None,
    frames: Annotated[int, typer.Option(help="3 to 33.")] = 5,
    image: Source = None,
    method: terminal.Method = None,
    amount: terminal.Amount = None,
    shared_steps: terminal.SharedSteps = None,
    attention: Annotated[bool, typer.Option("--attention", help="Method prompt: mix attention too.")] = False,
    spherical: Annotated[bool, typer.Option("--spherical", help="Method latent: along an arc (slerp).")] = False,
    retime: Annotated[bool, typer.Option("--retime", help="Frames that look equally far apart.")] = False,
    easing: terminal.EaseBy = None,
    pingpong: terminal.Pingpong = None,
    fps: terminal.Fps = None,
    seed: Seed = None,
    style: Style = "casual",
    text: terminal.Who = "",
    prompt: Prompt = None,
    on_low_confidence: Doubtful = "run",
    steps: Steps = None,
    size: Size = None,
    model: Model = None,
    lora: Loras = None,
    format: terminal.Format = "gif",
    out: terminal.OutFile = None,
    json: Json = False,
) -> None:
    """From one emotion to another, or through a chain of them, with the same character."""
    if emotions is not None and (start is not None or end is not None):
        raise BadInput("A morph takes either --from and --to or a chain with --emotions, not both.")
    chain = [start or "happy", end or "sad"] if emotions is None else terminal.sequence(emotions)
    studio = open_studio()
    base = base_of(
        studio, prompt=prompt, emotion=next(iter(chain), None), style=style, text=text or None,
        on_low_confidence=on_low_confidence, seed=seed, steps=steps, size=size, model=model, lora=lora,
    )  # fmt: skip
    terminal.animation(
        studio, "morph", base, image, out, json, emotions=chain, frames=frames, method=method, amount=amount,
        shared_steps=shared_steps, attention=attention, spherical=spherical, retime=retime, easing=easing,
        pingpong=pingpong, fps=fps, format=format,
    )  # fmt: skip


@app.command()
def animate(
    image: Character = None,
    emotions: terminal.Emotions = "happy,sad",
    keyframe: terminal.Keyframes = None,
    frames: Annotated[int, typer.Option(help="2 to 64.")] = 12,
    strength_from: Annotated[float | None, typer.Option(help="Above 0, to 1.")] = None,
    strength_to: Annotated[float | None, typer.Option(help="Above 0, to 1.")] = None,
    consistent: Annotated[
        bool | None, typer.Option("--consistent/--alone", help="All frames share their noise, or each is drawn alone.")
    ] = None,
    inbetweens: Annotated[int | None, typer.Option(help="Pictures between two frames by optical flow, 0 to 3.")] = None,
    easing: terminal.EaseBy = None,
    pingpong: terminal.Pingpong = None,
    fps: terminal.Fps = None,
    seed: Seed = None,
    style: Style = "casual",
    text: terminal.Who = "",
    prompt: Prompt = None,
    on_low_confidence: Doubtful = "run",
    steps: Steps = None,
    size: Size = None,
    model: Model = None,
    lora: Loras = None,
    format: terminal.Format = "gif",
    out: terminal.OutFile = None,
    json: Json = False,
) -> None:
    """Animate one character through a sequence of emotions."""
    chain, marks = terminal.sequence(emotions or ""), terminal.keyframes(keyframe)
    studio = open_studio()
    base = base_of(
        studio, prompt=prompt, emotion=next(iter(chain), None), style=style, text=text or None,
        on_low_confidence=on_low_confidence, seed=seed, steps=steps, size=size, model=model, lora=lora,
    )  # fmt: skip
    terminal.animation(
        studio, "animate", base, image, out, json, emotions=chain, keyframes=marks, frames=frames,
        strength_from=strength_from, strength_to=strength_to, consistent=consistent, inbetweens=inbetweens,
        easing=easing, pingpong=pingpong, fps=fps, format=format,
    )  # fmt: skip


@app.command()
def sprites(
    image: Character = None,
    seed: Seed = None,
    style: Style = "casual",
    text: terminal.Who = "",
    prompt: Prompt = None,
    on_low_confidence: Doubtful = "run",
    steps: Steps = None,
    size: Size = None,
    model: Model = None,
    lora: Loras = None,
    out: terminal.OutZip = None,
    json: Json = False,
) -> None:
    """One character in all five emotions, as a ZIP with the file names that chat front ends look for."""
    studio = open_studio()
    file, _ = terminal.file_named(out, "zip")
    out = None if file else out
    terminal.check_folder(out)
    base = base_of(
        studio, prompt=prompt, style=style, text=text or None, on_low_confidence=on_low_confidence, seed=seed,
        steps=steps, size=size, model=model, lora=lora,
    )  # fmt: skip
    spec = parse_spec({"kind": "sprites", "base": base} | only_said(image=image_id(studio, image)))
    view = follow_job(studio, studio.submit(spec, OWNER))
    frames = save_to(studio, view.result["frames"], out, "sprite-")
    packed = terminal.save_one(studio, view.result["sprites"], file, out, "sprites-")
    answer(json, {"frames": frames, "emotions": view.result["emotions"], "sprites": packed}, [*frames, packed])


@app.command()
def sketch(
    image: Annotated[Path, typer.Option(help="The drawing, or a picture to take the lines of.")],
    prompt: Prompt = None,
    control: Annotated[str, typer.Option(help="canny or lines.")] = "lines",
    low: Annotated[int | None, typer.Option(help="Lower Canny threshold, 0 to 255.")] = None,
    high: Annotated[int | None, typer.Option(help="Upper Canny threshold, 0 to 255.")] = None,
    weight: Annotated[float, typer.Option(help="0 to 2.")] = 1.0,
    start: terminal.Begin = None,
    end: terminal.End = None,
    control_mode: terminal.Mode = None,
    controlnet: terminal.Net = None,
    emotion: Emotion = "happy",
    style: Style = "casual",
    text: Text = "",
    on_low_confidence: Doubtful = "run",
    seed: Seed = None,
    count: Annotated[int, typer.Option(help="How many pictures.")] = 1,
    steps: Steps = None,
    guidance: Annotated[float | None, typer.Option(help="0 to 30.")] = None,
    negative: Annotated[str | None, typer.Option(help="The negative prompt.")] = None,
    size: Size = None,
    model: Model = None,
    lora: Loras = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Turn a drawing into the character."""
    studio = open_studio()
    terminal.check_folder(out)
    base = base_of(
        studio, prompt=prompt, emotion=emotion, style=style, text=text or None, on_low_confidence=on_low_confidence,
        seed=seed, count=count, steps=steps, guidance=guidance, negative=negative, size=size, model=model,
        lora=lora,
    )  # fmt: skip
    steering = only_said(
        image=image_id(studio, image), kind=control, low=low, high=high, weight=weight, start=start, end=end,
        control_mode=control_mode, model=controlnet,
    )  # fmt: skip
    view = follow_job(studio, studio.submit(parse_spec({"kind": "sketch", "base": base, "control": steering}), OWNER))
    drawn = [id for id in view.pictures if id != view.result["control_image"]]
    images = [
        {"path": path, "seed": studio.picture(id, OWNER).recipe.seed, "cached": id in view.cached}  # type: ignore[union-attr]
        for id, path in zip(drawn, save_to(studio, drawn, out), strict=True)
    ]
    [control_image] = save_to(studio, [view.result["control_image"]], out, "control-")
    answer(json, {"images": images, "control_image": control_image}, [control_image, *(str(i["path"]) for i in images)])


@app.command()
def caption(
    data: Annotated[str, typer.Option(help="A folder of pictures, or a ZIP of one.")],
    captioner: Annotated[str, typer.Option(help="judge, a hub id, or the folder of a tagger.")] = "judge",
    every: Annotated[bool, typer.Option("--all", help="Replace the captions that are there.")] = False,
    threshold: Annotated[float | None, typer.Option(help="0 to 1; what is less sure is left out.")] = None,
    name_style: Annotated[bool, typer.Option("--name-style", help="Name the style too (judge).")] = False,
    json: Json = False,
) -> None:
    """Write first captions for a training set: for its pictures without one, or for all."""
    studio = open_studio()
    fields = only_said(data=data, captioner=captioner, every=every, threshold=threshold, style=name_style)
    found = follow_job(studio, studio.submit(parse_spec({"kind": "caption"} | fields), OWNER)).result
    captions = [{"file": file, "caption": text} for file, text in found["captions"].items()]
    lines = [f"{row['file']}: {row['caption']}" for row in captions]
    answer(json, found | {"captions": captions}, [*lines, f"{len(captions)} captions written, {found['kept']} kept."])


app.command()(files.recipe)
app.command()(files.dataset)
app.command("train-lora")(train_lora)
app.command("train-control")(train_control)
app.command()(distill)


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions: a minute or two.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Names of benchmarks; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Measure every figure that the README quotes, on this machine."""
    from studio.interfaces.cli import bench as benchmarks

    result = benchmarks.run(quick, only or [], terminal.say)
    answer(json, result, benchmarks.table(result))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address; beyond this machine it needs STUDIO_API_KEY.")] = None,
    port: Annotated[int, typer.Option(help="Port of the API.")] = 8000,
) -> None:
    """Serve the HTTP API."""
    from studio.interfaces.api import app as api

    api.serve(settings(), host or settings().host, port)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; the exit code. Every error is one sentence on standard error."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    return terminal.guarded(app, arguments)
