"""The command line: every verb is a few options, one call of the service, and what it answered.

`--json` prints one JSON object as the last line of standard output; progress goes to standard error. Exit codes: 0, 2
(the request was wrong: one sentence), 1 (something else went wrong: one sentence). No logic lives here.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from studio import terminal
from studio.service import Studio, parse_spec
from studio.settings import settings
from studio.specs import LcmSpec, LoraSpec, LowConfidence
from studio.terminal import OWNER, answer, fail_for, follow_job, follow_run, image_id, lora_refs, save_to, sides
from studio.views import RunView

app = typer.Typer(
    name="studio",
    help=__doc__.split("\n")[0],
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
runs_app = typer.Typer(help="Training runs: list, show, stop, resume, delete.", no_args_is_help=True)
app.add_typer(runs_app, name="runs")

Json = Annotated[bool, typer.Option("--json", help="The last line of standard output is one JSON object.")]
Out = Annotated[Path | None, typer.Option("--out", help="Copy the files into this folder.")]
Emotion = Annotated[str, typer.Option(help="happy, angry, sad, surprised or calm.")]
Style = Annotated[str, typer.Option(help="casual, formal, artistic or realistic.")]
Quality = Annotated[str, typer.Option(help="draft, standard or high.")]
Model = Annotated[str | None, typer.Option(help="embedded, a hub id, a diffusers folder or a .safetensors file.")]
Loras = Annotated[list[str] | None, typer.Option("--lora", help="PATH or PATH:WEIGHT; may be repeated.")]
Seed = Annotated[int | None, typer.Option(help="Blank: another one each time.")]
Offline = Annotated[bool, typer.Option("--offline", help="Write the prompt without asking a language model.")]
Text = Annotated[str, typer.Option(help="What else is in the picture.")]
Prompt = Annotated[str | None, typer.Option(help="The whole prompt.")]
Doubtful = Annotated[
    LowConfidence,
    typer.Option(
        "--on-low-confidence",
        help="For a written prompt that is less than 80% sure. run: draw it, as without this option. fixed: use the "
        "fixed template. retry: have it written up to twice more, then use the fixed template. fail: say why and exit "
        "with code 2.",
    ),
]
Steps = Annotated[int | None, typer.Option(help="1 to 50.")]
Size = Annotated[str | None, typer.Option(help="Pixels: 512, or 512x768.")]
Source = Annotated[Path | None, typer.Option(help="Start from this picture.")]
Character = Annotated[Path | None, typer.Option(help="The character; drawn first when blank.")]
Fps = Annotated[int | None, typer.Option(help="Frames a second, 1 to 30.")]
Format = Annotated[str, typer.Option(help="gif, apng, webp, mp4 or zip.")]


def _studio() -> Studio:
    studio = Studio(settings())
    terminal.at_exit(studio.close)
    return studio


def _fields(**given: Any) -> dict[str, Any]:
    """Only what was said: the rest are the spec's own defaults."""
    return {name: value for name, value in given.items() if value is not None}


def _base(
    studio: Studio, *, offline: bool = True, on_low_confidence: LowConfidence = "run", lora: list[str] | None = None,
    size: str | None = None, **given: Any,
) -> dict[str, Any]:  # fmt: skip
    """The fields of a `GenerateSpec`; without a prompt it is written now, or offline by `submit`."""
    fields = _fields(**given, on_low_confidence=on_low_confidence, loras=lora_refs(lora), **sides(size))
    if "prompt" not in fields and not offline:
        names = ("emotion", "style", "quality", "text")
        asked = {name: fields[name] for name in names if name in fields}
        written = terminal.written(studio, asked, on_low_confidence)
        fields["prompt"] = written.positive_prompt
        fields.setdefault("negative", written.negative_prompt)
    return fields | {"model": given.get("model") or studio.settings.model}


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
    studio = _studio()
    terminal.check_folder(out)
    started = time.monotonic()
    rows = studio.parse_rows(terminal.read_text(prompts)) if prompts else None
    base = _base(
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
        _studio(), {"emotion": emotion, "style": style, "quality": quality, "text": text, "offline": offline}
    )
    lines = [result.positive_prompt, f"Negative: {result.negative_prompt}", f"Confidence: {result.confidence:.2f}"]
    answer(json, result.model_dump(mode="json"), [*lines, *result.notes])


@app.command()
def harden(text: Annotated[str, typer.Argument(help="What was typed.")], json: Json = False) -> None:
    """Undo typos, look-alike glyphs and invisible characters."""
    found = _studio().harden(terminal.text(text))
    changes = [{"from": c.source, "to": c.target, "kind": c.kind, "confidence": c.confidence} for c in found.changes]
    answer(
        json,
        {"text": found.text, "changes": changes},
        [found.text, *(f"{c['from']} -> {c['to']} ({c['kind']})" for c in changes)],
    )


@app.command()
def morph(
    start: Annotated[str, typer.Option("--from", help="The first emotion.")] = "happy",
    end: Annotated[str, typer.Option("--to", help="The last emotion.")] = "sad",
    frames: Annotated[int, typer.Option(help="3 to 33.")] = 5,
    seed: Seed = None,
    image: Source = None,
    method: Annotated[str | None, typer.Option(help="latent, prompt or picture.")] = None,
    retime: Annotated[bool, typer.Option("--retime", help="Frames that look equally far apart.")] = False,
    attention: Annotated[bool, typer.Option("--attention", help="Method prompt: mix attention too.")] = False,
    fps: Fps = None,
    once: Annotated[bool, typer.Option("--once", help="Don't run back to the first frame.")] = False,
    style: Style = "casual",
    prompt: Prompt = None,
    steps: Steps = None,
    size: Size = None,
    model: Model = None,
    lora: Loras = None,
    format: Format = "gif",
    out: Out = None,
    json: Json = False,
) -> None:
    """From one emotion to another with the same character."""
    studio = _studio()
    base = _base(
        studio, prompt=prompt, emotion=start, style=style, seed=seed, steps=steps, size=size, model=model, lora=lora
    )
    _animation(
        studio, "morph", base, image, out, json, emotions=(start, end), frames=frames, method=method, retime=retime,
        attention=attention, fps=fps, pingpong=not once, format=format,
    )  # fmt: skip


@app.command()
def animate(
    image: Character = None,
    emotions: Annotated[str, typer.Option(help="The sequence: happy,sad,calm.")] = "happy,sad",
    frames: Annotated[int, typer.Option(help="2 to 64.")] = 12,
    strength_from: Annotated[float | None, typer.Option(help="Above 0, to 1.")] = None,
    strength_to: Annotated[float | None, typer.Option(help="Above 0, to 1.")] = None,
    inbetweens: Annotated[int | None, typer.Option(help="Pictures between two frames by optical flow, 0 to 3.")] = None,
    fps: Fps = None,
    seed: Seed = None,
    style: Style = "casual",
    prompt: Prompt = None,
    steps: Steps = None,
    size: Size = None,
    model: Model = None,
    lora: Loras = None,
    format: Format = "gif",
    out: Out = None,
    json: Json = False,
) -> None:
    """Animate one character through a sequence of emotions."""
    studio = _studio()
    base = _base(studio, prompt=prompt, style=style, seed=seed, steps=steps, size=size, model=model, lora=lora)
    sequence = [name.strip() for name in emotions.split(",") if name.strip()]
    _animation(
        studio, "animate", base, image, out, json, emotions=sequence, frames=frames, strength_from=strength_from,
        strength_to=strength_to, inbetweens=inbetweens, fps=fps, format=format,
    )  # fmt: skip


@app.command()
def sprites(
    image: Character = None,
    seed: Seed = None,
    style: Style = "casual",
    text: Annotated[str, typer.Option(help="Who it is.")] = "",
    prompt: Prompt = None,
    on_low_confidence: Doubtful = "run",
    steps: Steps = None,
    size: Size = None,
    model: Model = None,
    lora: Loras = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """One character in all five emotions, as a ZIP with the file names that chat front ends look for."""
    studio = _studio()
    terminal.check_folder(out)
    base = _base(
        studio, prompt=prompt, style=style, text=text or None, on_low_confidence=on_low_confidence, seed=seed,
        steps=steps, size=size, model=model, lora=lora,
    )  # fmt: skip
    spec = parse_spec({"kind": "sprites", "base": base} | _fields(image=image_id(studio, image)))
    view = follow_job(studio, studio.submit(spec, OWNER))
    frames = save_to(studio, view.result["frames"], out, "sprite-")
    [packed] = save_to(studio, [view.result["sprites"]], out, "sprites-")
    answer(json, {"frames": frames, "emotions": view.result["emotions"], "sprites": packed}, [*frames, packed])


def _animation(
    studio: Studio, kind: str, base: dict[str, Any], image: Path | None, out: Path | None, json: bool, **given: Any
) -> None:
    """What `morph` and `animate` do with their options; `given` are the fields of their own spec, blank ones None."""
    terminal.check_folder(out)
    spec = parse_spec({"kind": kind, "base": base} | _fields(image=image_id(studio, image), **given))
    view = follow_job(studio, studio.submit(spec, OWNER))
    frames = save_to(studio, view.result["frames"], out, "frame-")
    [animation] = save_to(studio, [view.result["animation"]], out, "animation-")
    recipe = studio.picture(view.result["frames"][0], OWNER).recipe
    seed = recipe.seed if recipe else None
    answer(json, {"frames": frames, "animation": animation, "seed": seed}, [*frames, animation])


@app.command()
def sketch(
    image: Annotated[Path, typer.Option(help="The drawing, or a picture to take the lines of.")],
    prompt: Prompt = None,
    control: Annotated[str, typer.Option(help="canny or lines.")] = "lines",
    low: Annotated[int | None, typer.Option(help="Lower Canny threshold, 0 to 255.")] = None,
    high: Annotated[int | None, typer.Option(help="Upper Canny threshold, 0 to 255.")] = None,
    weight: Annotated[float, typer.Option(help="0 to 2.")] = 1.0,
    emotion: Emotion = "happy",
    style: Style = "casual",
    text: Text = "",
    on_low_confidence: Doubtful = "run",
    seed: Seed = None,
    count: Annotated[int, typer.Option(help="How many pictures.")] = 1,
    steps: Steps = None,
    size: Size = None,
    model: Model = None,
    lora: Loras = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Turn a drawing into the character."""
    studio = _studio()
    terminal.check_folder(out)
    base = _base(
        studio, prompt=prompt, emotion=emotion, style=style, text=text or None, on_low_confidence=on_low_confidence,
        seed=seed, count=count, steps=steps, size=size, model=model, lora=lora,
    )  # fmt: skip
    steering = _fields(image=image_id(studio, image), kind=control, low=low, high=high, weight=weight)
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
    studio = _studio()
    fields = _fields(data=data, captioner=captioner, every=every, threshold=threshold, style=name_style)
    found = follow_job(studio, studio.submit(parse_spec({"kind": "caption"} | fields), OWNER)).result
    captions = [{"file": file, "caption": text} for file, text in found["captions"].items()]
    lines = [f"{row['file']}: {row['caption']}" for row in captions]
    answer(json, found | {"captions": captions}, [*lines, f"{len(captions)} captions written, {found['kept']} kept."])


@app.command("train-lora")
def train_lora(
    data: Annotated[str, typer.Option(help="A folder of pictures, or a ZIP of one.")],
    out: Annotated[Path | None, typer.Option(help="Copy the finished LoRA into this folder.")] = None,
    name: Annotated[str | None, typer.Option(help="What the LoRA is called.")] = None,
    model: Model = None,
    epochs: Annotated[int | None, typer.Option(help="1 to 1000.")] = None,
    rank: Annotated[int | None, typer.Option(help="1 to 256.")] = None,
    seed: Seed = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last run on this data, if it isn't done.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; `runs show` tells how it stands.")] = False,
    json: Json = False,
) -> None:
    """Teach a model a style."""
    studio = _studio()
    terminal.check_folder(out)
    fields = _fields(data=data, name=name or (out.resolve().name if out else None), epochs=epochs, rank=rank, seed=seed)
    spec = terminal.spec(LoraSpec, fields | {"model": model or studio.settings.model})
    run = _run(studio, spec, ("data", "name", "model"), resume, detach)
    adapter = _copied(run, out)
    keys = {
        "run": run.id,
        "state": run.state,
        "epoch": run.epoch,
        "loss": run.loss,
        "adapter": adapter,
        "checkpoints": run.checkpoints,
    }
    answer(json, keys, [f"{run.id}: {run.state}", *([adapter] if adapter else [])])
    fail_for(run)


@app.command()
def distill(
    model: Model = None,
    lora: Loras = None,
    data: Annotated[str | None, typer.Option(help="Pictures to learn from; blank: the teacher's own.")] = None,
    out: Annotated[Path | None, typer.Option(help="Copy the result into this folder.")] = None,
    name: Annotated[str | None, typer.Option(help="What the result is called.")] = None,
    epochs: Annotated[int | None, typer.Option(help="1 to 1000.")] = None,
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the last such run, if it isn't done.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; `runs show` tells how it stands.")] = False,
    json: Json = False,
) -> None:
    """Make a model fast: latent consistency distillation to four steps."""
    studio = _studio()
    terminal.check_folder(out)
    fields = _fields(
        data=data, name=name or (out.resolve().name if out else None), epochs=epochs, seed=seed, loras=lora_refs(lora)
    )
    spec = terminal.spec(LcmSpec, fields | {"model": model or studio.settings.model})
    run = _run(studio, spec, ("model", "name"), resume, detach)
    adapter = _copied(run, out)
    keys = {"run": run.id, "state": run.state, "adapter": adapter, "curve": run.extra.get("curve", [])}
    answer(json, keys, [f"{run.id}: {run.state}", *([adapter] if adapter else [])])
    fail_for(run)


def _run(studio: Studio, spec: LoraSpec | LcmSpec, same: tuple[str, ...], resume: bool, detach: bool) -> RunView:
    """Start the run, or go on with the newest one that agrees with it in the fields `same`."""
    run = terminal.unfinished(studio, spec, same) if resume else None
    if run is None:
        run = studio.start_run(spec, OWNER)
    elif not run.active:
        run = studio.resume_run(run.id, **({"epochs": spec.epochs} if spec.epochs > run.epochs else {}))
    return run if detach else follow_run(studio, run)


def _copied(run: RunView, out: Path | None) -> str | None:
    if run.adapter is None or out is None:
        return str(run.adapter) if run.adapter else None
    if run.adapter.is_dir():  # a whole model
        return str(shutil.copytree(run.adapter, out, dirs_exist_ok=True))
    out.mkdir(parents=True, exist_ok=True)
    return str(shutil.copy2(run.adapter, out / run.adapter.name))


def _answer_run(run: RunView, json: bool) -> None:
    left = "" if run.seconds_left is None else f", {run.seconds_left:.0f} s left"
    lines = [f"{run.id}: {run.state}, epoch {run.epoch} of {run.epochs}, step {run.step} of {run.steps}{left}"]
    answer(json, run.model_dump(mode="json"), lines + ([run.error] if run.error else []))


@runs_app.command("list")
def runs_list(json: Json = False) -> None:
    """All training runs, newest first."""
    found = _studio().runs()
    lines = [f"{run.id}  {run.state}  epoch {run.epoch}/{run.epochs}" for run in found]
    answer(
        json,
        {"runs": [run.model_dump(mode="json", exclude={"metrics", "log"}) for run in found]},
        lines or ["No runs yet."],
    )


@runs_app.command("show")
def runs_show(id: str, json: Json = False) -> None:
    """How a run stands."""
    _answer_run(_studio().run(id), json)


@runs_app.command("stop")
def runs_stop(id: str, json: Json = False) -> None:
    """Save and end a run after the step it is in."""
    _answer_run(_studio().stop_run(id), json)


@runs_app.command("resume")
def runs_resume(id: str, json: Json = False) -> None:
    """Go on exactly where the last checkpoint is."""
    _answer_run(_studio().resume_run(id), json)


@runs_app.command("delete")
def runs_delete(id: str, json: Json = False) -> None:
    """Remove a run with its checkpoints."""
    _studio().delete_run(id)
    answer(json, {"deleted": id}, [f"{id} is deleted."])


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions: a minute or two.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Names of benchmarks; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Measure every figure that the README quotes, on this machine."""
    from studio import bench as benchmarks

    result = benchmarks.run(quick, only or [], terminal.say)
    answer(json, result, benchmarks.table(result))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address; beyond this machine it needs STUDIO_API_KEY.")] = None,
    port: Annotated[int, typer.Option(help="Port of the API.")] = 8000,
) -> None:
    """Serve the HTTP API."""
    from studio import api

    api.serve(settings(), host or settings().host, port)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; the exit code. Every error is one sentence on standard error."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    return terminal.guarded(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
