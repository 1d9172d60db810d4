"""One request on its way: what the function that works on it may ask and say, and how that looks from outside.

Doesn't know the queue: whoever runs it sets `changed` and the state. What a job does stands in `studio.features`.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from studio.core.errors import Cancelled
from studio.core.specs import DRAWN_LABELS, Emotion, GenerateSpec, Recipe, Request, Style
from studio.core.views import JobState, JobView, Picture, PictureKind
from studio.store.pictures import Pictures

if TYPE_CHECKING:
    from studio.prompting.harden import Hardened
    from studio.prompting.writers import PromptRequest, PromptResult

PREVIEW_SIDE = 512  # pixels


class Wording(Protocol):
    """How requests are put into words: offline, with people's own tag lists, and the same every time."""

    def written(self, spec: GenerateSpec, fixed: bool | None = None) -> PromptResult:
        """What is written for this request when nobody edits it. `fixed`: see `service.wording.Wording`."""

    def prompted(self, spec: GenerateSpec, emotion: Emotion, style: Style) -> GenerateSpec:
        """The same request with another emotion and style, also in a prompt of one's own."""

    def traits(self, spec: GenerateSpec, seed: int) -> dict[str, str]:
        """What a request leaves open about its character, decided by the seed, by group."""

    def write(self, request: PromptRequest) -> PromptResult:
        """A prompt for this request."""

    def with_words(self, prompt: str, words: str) -> tuple[str, list[str]]:
        """A prompt with these words in place of what they contradict, and what that was."""

    def harden(self, text: str, protected: tuple[str, ...] = ()) -> Hardened:
        """A text with its typos and look-alikes undone."""


class Job:
    """One request on its way: all that the function that works on it (see `studio.features`) gets of the studio.

    Everything here may be called from the worker only, but `view` and `cancel`, which any thread may call.
    """

    def __init__(
        self,
        spec: Request,
        owner: str,
        *,
        title: str = "",
        recipes: tuple[Recipe, ...] = (),
        cached: Mapping[int, Picture] | None = None,
        notes: tuple[str, ...] = (),
        pictures: Pictures,
        resolve: Callable[[GenerateSpec], tuple[Recipe, ...]] | None = None,
        wording: Wording | None = None,
        model_title: str = "",
        result: Mapping[str, Any] | None = None,
        id: str = "",
    ) -> None:
        self.id = id or uuid.uuid4().hex[:16]
        self.spec = spec
        self.owner = owner
        self.title = title
        self.recipes = recipes  # every default filled in; one per picture where the request says how many
        self.cached = dict(cached or {})  # index -> picture that was there already
        self.result: dict[str, Any] = dict(result or {})
        self.model_title = model_title
        self._resolve = resolve
        self._wording = wording
        self._store = pictures
        self.ids = {index: picture.id for index, picture in self.cached.items()}  # what the job shows, by index
        self._notes = list(notes)
        self._note = ""
        self._preview: bytes | None = None
        self._total = 0.0
        self._base = 0.0  # work done before the current stage
        self._stage = 0.0  # what the current stage is worth
        self._done = 0.0
        self._clock: tuple[float, float] | None = None  # (time, done) when real work had begun
        self.cancelled = threading.Event()
        self.lost = False  # another process works on it by now
        self.state: JobState = "queued"
        self.error: str | None = None
        self.bad_input = False
        self.created = time.time()
        self.started: float | None = None
        self.finished: float | None = None
        self.looked = self.wrote = 0.0
        self.runner: Iterator[None] | None = None
        self.changed: Callable[[Job], None] = lambda job: None  # set by `Jobs`: called after each piece of progress

    # --- for work functions ---------------------------------------------------------------------------------------

    def begin(self, total: float) -> None:
        """Say how much work there is, in any unit that `stage` shares (sampling steps, usually)."""
        self._total = total
        self._base = self._stage = self._done = 0.0
        self._clock = None

    def stage(self, weight: float) -> Callable[[Any], None]:
        """The progress callback for one call of the engine that is worth `weight` of the total.

        It takes `engine.progress.Step` (done, total, note, preview) and raises `Cancelled`.
        """
        self._base += self._stage
        self._stage = weight
        base = self._base

        def on_step(step: Any) -> None:
            self._done = base + weight * min(1.0, step.done / max(1, step.total))
            if step.note or step.done:
                self._note = step.note
            if step.preview is not None:
                self._preview = _jpeg(step.preview)
            if step.done and self._clock is None:
                self._clock = (time.monotonic(), self._done)
            self.check()

        return on_step

    def check(self) -> None:
        """Raise `Cancelled` when the owner has had enough; tell watchers that something may have changed."""
        self.changed(self)
        if self.cancelled.is_set():
            raise Cancelled

    def note(self, sentence: str) -> None:
        """A true sentence about how the request was understood, shown with the job (once)."""
        if sentence not in self._notes:
            self._notes.append(sentence)

    def say(self, note: str) -> None:
        """What is being done right now, a few words ("Loading the model")."""
        self._note = note
        self.check()

    def resolve(self, spec: GenerateSpec) -> tuple[Recipe, ...]:
        """Recipes of another request, as the service would make them at submission. Raises `BadInput`."""
        assert self._resolve is not None
        return self._resolve(spec)

    @property
    def wording(self) -> Wording:
        """How requests are put into words here."""
        assert self._wording is not None
        return self._wording

    def files(self, id: str) -> Path:
        """The file of a picture of this owner. Raises `NotFound`."""
        return self._store.get(id, self.owner).path

    def claim_cached(self, recipe: Recipe) -> Picture | None:
        """The picture of this recipe if it was ever drawn here (it becomes this owner's)."""
        return self._store.claim_cached(recipe, self.owner)

    def save(
        self,
        image: Image.Image,
        recipe: Recipe | None,
        index: int | None = None,
        *,
        id: str | None = None,
        kind: PictureKind = "picture",
        title: str = "",
        details: dict[str, Any] | None = None,
    ) -> str:
        """Store a picture and show it in the job at place `index` (default: the next). Returns its id.

        What its drawing left in `image.info` (`DRAWN_LABELS`) becomes labels of its recipe.
        """
        labels = {name: str(image.info[name]) for name in DRAWN_LABELS if name in image.info}
        if recipe is not None and labels:
            recipe = recipe.model_copy(update={"labels": recipe.labels | labels})
        picture = self._store.save(
            image,
            recipe,
            self.owner,
            id=id,
            kind=kind,
            title=title or self.title,
            job=self.id,
            details=details,
            model_title=self.model_title,
        )
        return self.show(picture.id, index)

    def save_file(
        self,
        data: bytes,
        suffix: str,
        size: tuple[int, int],
        index: int | None = None,
        *,
        kind: PictureKind = "animation",
        title: str = "",
        recipe: Recipe | None = None,
        details: dict[str, Any] | None = None,
    ) -> str:
        """Store a finished file (an animation, a ZIP) and show it in the job. `suffix` has its dot. Returns its id."""
        picture = self._store.save_file(
            data,
            suffix,
            self.owner,
            size=size,
            recipe=recipe,
            kind=kind,
            title=title or self.title,
            job=self.id,
            details=details,
        )
        return self.show(picture.id, index)

    def show(self, id: str, index: int | None = None) -> str:
        """Put a picture that is in the store already into the job."""
        self.ids[max(self.ids, default=-1) + 1 if index is None else index] = id
        self.changed(self)
        return id

    def key(self, *parts: str) -> str:
        """A content key for a picture that has no recipe of its own, 32 hex digits: the same parts, the same key."""
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def picture(self, id: str) -> Picture:
        """A picture of this owner with its recipe. Raises `NotFound`."""
        return self._store.get(id, self.owner)

    def image(self, id: str) -> Image.Image:
        """A stored picture of this owner, decoded, RGB."""
        with Image.open(self.files(id)) as image:
            return image.convert("RGB")

    # --- for the queue and for everybody ------------------------------------------------------------------------

    def view(self, position: int = 0) -> JobView:
        ids = dict(sorted(self.ids.copy().items()))
        return JobView(
            id=self.id,
            kind=self.spec.kind,
            title=self.title,
            state=self.state,
            position=position,
            done=round(self._done),
            total=round(self._total),
            note=self._note,
            seconds_left=self._seconds_left(),
            preview=self._preview,
            pictures=tuple(ids.values()),
            cached=tuple(dict.fromkeys(one.id for one in self.cached.values() if one.job != self.id)),
            result=dict(self.result),
            notes=tuple(self._notes),
            error=self.error,
            bad_input=self.bad_input,
            created=self.created,
            started=self.started,
            finished=self.finished,
        )

    def end(self, state: JobState, error: str | None = None, bad_input: bool = False) -> None:
        """The last state."""
        self.error, self.bad_input, self.finished = error, bad_input, time.time()
        self.state = state
        self._preview, self.runner, self._note = None, None, ""
        if state == "done":
            self._done = self._total

    def _seconds_left(self) -> float | None:
        clock = self._clock
        if self.state != "running" or clock is None or self._done <= clock[1] or not self._total:
            return None
        return (time.monotonic() - clock[0]) / (self._done - clock[1]) * max(0.0, self._total - self._done)


def _jpeg(image: Image.Image) -> bytes:
    image = image.convert("RGB")
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
