"""Who a morph, an animation or a sprite set shows: what is asked for, and what is known about a picture of them.

A picture that was drawn here brings the request that it came from. What was asked for beside it goes first
(`merge_request`, at submission: a job that is repeated is the same one), and what it doesn't allow is said in a note.
The rest is for the worker. Doesn't draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from studio.core.samplers import FEW_STEP_SAMPLERS, INVERSION_SAMPLER, INVERSION_STEPS, SAMPLERS
from studio.core.specs import MAX_PROMPT, Emotion, GenerateSpec, LoraRef, MorphMethod, Parameters, Recipe, Request
from studio.engine.models.catalogue import find_lora, resolve
from studio.features.feature import Planned, Planning
from studio.jobs.job import Job
from studio.store.metadata import request_of

TEXT = {
    "uploaded": "An uploaded picture has no noise to draw it again from, so its expression is changed in place.",
    "not_redrawn": "This picture came from more than noise and words (a drawing, another picture or a morph), which "
    "can't be drawn again with another expression; so its expression is changed in place.",
    "decided": "So that every picture shows the same character, what you left open was decided: {}.",
    "described": "The picture was read as: {}.",
    "no_face": "No anime face was recognised with certainty; say in the text field what the picture shows.",
    "unread": "{} has no judge to read the picture with; say in the text field what it shows (hair, eyes, clothes), so "
    "that it is kept better.",
    "own": "Drawn with the picture's own {}, not with the default.",
    "quality": "The picture's own words are used, so the quality that was asked for changes nothing.",
    "anew": "Something was asked for that the picture wasn't drawn with (words, seed, model, LoRAs or settings), so "
    "the character is drawn anew and may look different.",
    "in_place": "Keeping a picture takes it back to noise with {sampler}, in at least {steps} steps and with guidance "
    "above 1: {asked} can't be used for that.",
    "few_step": "A few-step LoRA can't change a picture in place and was left out.",
}
# Fields of a request that decide what is drawn from the noise.
DRAWN_BY = (
    "prompt", "negative", "model", "seed", "loras", "steps", "guidance", "sampler", "width", "height",
    *Parameters.model_fields,
)  # fmt: skip
FEW_STEP_FIELDS = ("steps", "guidance", "loras")
# A judge that is less sure of every emotion may have no face before it. It only hints: of 32 example faces one or two
# are below, of 7 pictures of noise two (it knows no answer "none of these").
FACE = 0.5
PLAIN = GenerateSpec()


def plan_character(
    spec: Request,
    base: GenerateSpec,
    image: str | None,
    emotions: Sequence[Emotion],
    planning: Planning,
    method: MorphMethod | None = None,
) -> Planned:
    """The plan of a job that shows one character in several emotions: as `base` says, or as in the picture `image`.

    `method`: how its frames are drawn; None for one that has no choice.
    """
    known = planning.picture(image).recipe if image is not None else None
    if method == "picture" and image is not None and (refused := _not_in_place(base)):
        sampler = SAMPLERS[INVERSION_SAMPLER].title
        planning.note(TEXT["in_place"].format(sampler=sampler, steps=INVERSION_STEPS, asked=refused))
    if known is not None:
        base = merge_request(base, known, planning)
    else:
        base = planning.seeded(base)
        if image is None:
            base = one_character(base, planning)
    return Planned(
        spec.model_copy(update={"base": base}),
        [base.model_copy(update={"count": 1})],
        complete=False,
        alike=[planning.wording.prompted(base, emotion, base.style) for emotion in emotions],
    )


def _not_in_place(base: GenerateSpec) -> str:
    """What was asked for that the method "picture" can't heed (see `in_place`), in words."""
    refused = []
    if base.steps is not None and base.steps < INVERSION_STEPS:
        refused.append(f"{base.steps} steps")
    if base.sampler not in ("auto", INVERSION_SAMPLER):
        refused.append(f"the sampler {SAMPLERS[base.sampler].title}")
    if base.guidance is not None and base.guidance <= 1:
        refused.append(f"guidance {base.guidance:g}")
    return ", ".join(refused)


def one_character(base: GenerateSpec, planning: Planning) -> GenerateSpec:
    """`base` (its seed known) with what it leaves open about the face decided, for pictures that show the same one.

    A prompt of one's own stays as it is.
    """
    if base.prompt is not None:
        return base
    assert base.seed is not None
    traits = planning.wording.traits(base, base.seed)  # clothes go by the style, which may differ between pictures
    words = ", ".join(word for group, word in traits.items() if group != "clothes")
    text = ", ".join(filter(None, (base.text, words)))
    if not words or len(text) > MAX_PROMPT:
        return base
    planning.note(TEXT["decided"].format(words))
    return base.model_copy(update={"text": text})


@dataclass(frozen=True)
class Character:
    """Who is to be shown: the request for them, and what is known about a picture of them.

    `shown` is the emotion in the picture; None: there is no picture, or nobody knows. `redrawn`: noise and words alone
    lead to it again, so that they can be changed; without a picture so too. `changed`: something else was asked for
    than it was drawn with.
    """

    base: GenerateSpec
    shown: Emotion | None = None
    redrawn: bool = True
    uploaded: bool = False
    changed: bool = False


def merge_request(base: GenerateSpec, recipe: Recipe, planning: Planning) -> GenerateSpec:
    """The request for the character of a picture with this recipe: its own, with all that `base` asks for.

    What is blank or a default in `base` wasn't asked for; an empty list of LoRAs was, where it is given. Raises
    `NotFound` and `BadInput` for a model or LoRA that isn't here.
    """
    known, settings = request_of(recipe), planning.settings

    def asked(name: str) -> bool:
        return name in base.model_fields_set and getattr(base, name) not in (None, getattr(PLAIN, name))

    changes: dict[str, Any] = {
        name: getattr(base, name)
        for name in ("negative", "seed", "width", "height", "steps", "guidance", "sampler", *Parameters.model_fields)
        if asked(name)
    }
    if "loras" in base.model_fields_set:
        refs = [(find_lora(ref.path, settings).path, ref.weight) for ref in base.loras]
        changes["loras"] = tuple(LoraRef(path=str(path), weight=weight) for path, weight in refs)
    own: list[str] = []
    sampling = {name: getattr(base, name) for name in ("steps", "guidance", "sampler")}
    if "model" in base.model_fields_set and base.model != known.model:
        if base.model == settings.model:
            own.append(f"model ({known.model.rstrip('/').rsplit('/', 1)[-1]})")
        elif resolve(base.model, settings).hash != recipe.model_hash:  # another one has settings of its own
            changes |= sampling | {"model": base.model, "width": base.width, "height": base.height}
    few = known.sampler in FEW_STEP_SAMPLERS
    if few and any(changes.get(name, getattr(known, name)) != getattr(known, name) for name in FEW_STEP_FIELDS):
        changes |= sampling  # few steps, low guidance and their adapter belong together
    changes |= {"count": 1, "control": None, "source": None, "mask": None, "on_low_confidence": base.on_low_confidence}
    if base.prompt is not None:
        changes |= {name: getattr(base, name) for name in ("prompt", "emotion", "style", "quality", "text")}
        return known.model_copy(update=changes)
    if asked("quality") and base.quality != known.quality:
        planning.note(TEXT["quality"])
    if asked("text") and base.text != known.text:
        of_model = base.model_copy(update={"model": changes.get("model", known.model)})  # whose words count
        words = planning.wording.written(of_model, fixed=False).layers.text
        changes |= {"prompt": ", ".join(part for part in (known.prompt, words) if part), "text": base.text}
    merged = known.model_copy(update=changes)
    if asked("style"):
        merged = planning.wording.prompted(merged, merged.emotion, base.style)
    elif "style" in base.model_fields_set and base.style != known.style:
        own.append(f"style ({known.style})")
    if own:
        planning.note(TEXT["own"].format(" and ".join(own)))
    return merged


def character(engine: Any, job: Job, base: GenerateSpec, image: str | None) -> Character:
    """Read the picture: its recipe where it has one, else the model's judge; where that is missing, ask for words.

    What the person wrote goes before what was read. `base` is merged already.
    """
    if image is None:
        return Character(base)
    known = job.picture(image).recipe
    if known is not None:
        redrawn = why_in_place(known) is None
        request = request_of(known)
        changed = any(getattr(base, name) != getattr(request, name) for name in DRAWN_BY)
        return Character(base, request.emotion if "emotion" in known.labels else None, redrawn, changed=changed)
    from studio.engine import judging

    info = resolve(base.model, engine.settings, with_hash=False)
    told = base.prompt is not None or bool(base.text)
    if info.judge is None:
        if not told:
            job.note(TEXT["unread"].format(info.title))
        return Character(base, None, False, True)
    seen = judging.describe(info.judge, job.image(image))
    if not told:
        words = ", ".join(seen.tags)
        job.note(TEXT["described"].format(words))
        if seen.sure < FACE:
            job.note(TEXT["no_face"])
        base = base.model_copy(update={"text": words, "emotion": seen.emotion, "style": seen.style})
    return Character(base, seen.emotion, False, True)  # type: ignore[arg-type]


def why_in_place(recipe: Recipe | None) -> str | None:
    """Why a picture with this recipe (None: uploaded) can only be changed in place; None where it can be redrawn."""
    if recipe is None:
        return TEXT["uploaded"]
    return TEXT["not_redrawn"] if recipe.control or recipe.source or recipe.frame else None


def default_method(image: str | None) -> MorphMethod:
    """How a character is shown with other expressions when nobody chose: a picture that was given is kept."""
    return "prompt" if image is None else "picture"


def fitting_method(job: Job, who: Character, asked: MorphMethod, note_uploads: bool = True) -> MorphMethod:
    """The method that fits the picture: what noise and words don't lead to again can only be changed in place."""
    if asked in ("picture", "direction") or (who.uploaded and asked == "latent"):
        return asked
    if who.redrawn:
        if who.changed:
            job.note(TEXT["anew"])
        return asked
    if not who.uploaded:
        job.note(TEXT["not_redrawn"])
    elif note_uploads:
        job.note(TEXT["uploaded"])
    return "picture"


def in_place(engine: Any, job: Job, base: GenerateSpec) -> GenerateSpec:
    """The request as the method "picture" carries it out: DDIM in small steps, guided, without few-step adapters."""
    from studio.engine.motion.morph import INVERTED

    info = resolve(base.model, engine.settings, with_hash=False)
    loras = tuple(ref for ref in base.loras if find_lora(ref.path, engine.settings).fast is None)
    if len(loras) < len(base.loras):
        job.note(TEXT["few_step"])
    guided = base.guidance is not None and base.guidance > 1
    changes: dict[str, Any] = {
        "sampler": INVERSION_SAMPLER,
        "steps": min(50, max(base.steps or info.steps, INVERSION_STEPS)),
        "guidance": base.guidance if guided else info.guidance,
        "strength": INVERTED,
        "loras": loras,
    }
    return base.model_copy(update=changes)
