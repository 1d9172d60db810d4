"""Another studio's API in place of an engine (STUDIO_BACKEND): it draws, this studio asks and keeps.

What is drawn there is stored here, under its owner here, with the recipe that it was drawn by. Knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from studio.client import Client, Refused, done, one
from studio.core.errors import BadInput, StudioError
from studio.core.settings import Settings
from studio.core.specs import GenerateSpec, Recipe
from studio.core.views import Picture
from studio.engine.progress import Step
from studio.features.registry import FEATURES
from studio.jobs.job import Job
from studio.jobs.queue import Work
from studio.store import metadata

AT_ONCE = 8  # pictures of one job that are under way there
PAUSE = 0.2  # seconds between looks at them
TEXT = {
    "away": "{url}, which is to draw (STUDIO_BACKEND), doesn't answer ({error}); try again when it runs.",
    "refused": "{url}, which is to draw (STUDIO_BACKEND), lets nobody in: {said} STUDIO_BACKEND_KEY has to be one of "
    "its keys.",
    "other": "{url} has another version of the model or a LoRA than this computer: the picture is kept with the recipe "
    "that it was drawn by.",
    "only_here": "With STUDIO_BACKEND, pictures, sheets, grids, prompt lists, sketches and retouched pictures are "
    "drawn by the other server; this isn't. Start a studio without STUDIO_BACKEND for it.",
}  # fmt: skip


class Backend:
    """Stands where the engine does, in the worker's thread."""

    def __init__(self, settings: Settings) -> None:
        key = settings.backend_key.get_secret_value() if settings.backend_key else ""
        self.settings = settings
        self.url = str(settings.backend).rstrip("/")
        self._client = Client(self.url, key)

    @staticmethod
    def work() -> dict[str, Work]:
        """What the worker does, by kind of job."""
        return {kind: _elsewhere(feature.work) for kind, feature in FEATURES.items()}

    @staticmethod
    def check(known: bool) -> None:
        """Raises `BadInput` where the pictures of a request aren't all `known` before its job begins."""
        if not known:
            raise BadInput(TEXT["only_here"])

    def close(self) -> None:
        self._client.__exit__()

    def status(self) -> dict[str, Any]:
        """As the engine's: no model is loaded here."""
        return {"loaded": False, "device": "backend", "device_name": self.url}

    def draw(self, job: Job) -> Iterator[None]:
        """Have the job's recipes drawn, as many together as `AT_ONCE`, and store the pictures at their places.

        Yields between looks, so that other owners' jobs are under way as well. Leaving early cancels what isn't
        finished. Raises StudioError.
        """
        todo = [index for index in range(len(job.recipes)) if index not in job.cached]
        steps = dict.fromkeys(todo, 0.0)
        total = sum(job.recipes[index].all_steps for index in todo)
        sent: dict[int, str] = {}  # index -> the job there
        names: dict[str, str] = {}  # pictures of this owner -> what they are called there
        job.begin(total)
        tell = job.stage(total)
        try:
            with self._spoken_to():
                while todo or sent:
                    while todo and len(sent) < AT_ONCE:
                        index = todo.pop(0)
                        request = self._request(job, job.recipes[index], names)
                        sent[index] = self._client.submit(request).id
                    for index, id in list(sent.items()):
                        view = self._client.job(id)
                        steps[index] = view.fraction * job.recipes[index].all_steps
                        if not view.active:
                            [picture] = done(view)
                            self._keep(job, index, picture)
                            del sent[index]
                    tell(Step(round(sum(steps.values())), total))
                    time.sleep(PAUSE)
                    yield
        finally:
            for id in sent.values():
                with suppress(StudioError, httpx.HTTPError):
                    self._client.cancel(id)

    @contextmanager
    def _spoken_to(self) -> Iterator[None]:
        """What the other server says, and that it says nothing, as errors of this studio."""
        try:
            yield
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            raise StudioError(TEXT["away"].format(url=self.url, error=said)) from error
        except Refused as error:
            if error.status in (401, 403):
                raise StudioError(TEXT["refused"].format(url=self.url, said=error)) from error
            if error.status < 500 and error.status != 429:
                raise BadInput(str(error)) from error
            raise

    def _request(self, job: Job, recipe: Recipe, names: dict[str, str]) -> GenerateSpec:
        """What asks the other server for this recipe: files of this computer by the names that they have there."""

        def there(id: str) -> str:
            if id not in names:
                file = job.files(id)
                names[id] = self._client.upload(file.read_bytes(), file.name).id
            return names[id]

        changes: dict[str, Any] = {"source": there(recipe.source)} if recipe.source is not None else {}
        for name in ("control", "mask"):
            if (guide := getattr(recipe, name)) is not None:
                changes[name] = guide.model_copy(update={"image": there(guide.image)})
        folder = self.settings.models_dir.resolve() / "loras"
        changes["loras"] = tuple(
            ref.model_copy(update={"path": _name(Path(ref.path).resolve(), folder)})
            if Path(ref.path).is_absolute() or Path(ref.path).exists()
            else ref
            for ref in recipe.loras
        )
        return metadata.request_of(recipe).model_copy(update=changes)

    def _keep(self, job: Job, index: int, id: str) -> None:
        """Store a picture of the other server with the recipe that it was drawn by, in the words of this one."""
        wanted = job.recipes[index]
        drawn = self._client.ask("GET", f"/v1/images/{id}/info", one(Picture)).recipe
        if drawn is None:
            raise StudioError(f"{self.url} keeps no recipe with what it draws: it is no studio of this version.")
        changes: dict[str, Any] = {"labels": wanted.labels | drawn.labels, "source": wanted.source}
        for name in ("control", "mask"):
            mine, other = getattr(wanted, name), getattr(drawn, name)
            if mine is not None and other is not None:
                changes[name] = other.model_copy(update={"image": mine.image})
        if drawn.lora_hashes == wanted.lora_hashes:
            changes["loras"] = wanted.loras
        recipe = drawn.model_copy(update=changes)
        if recipe.key != wanted.key and wanted.model_hash:  # without: it isn't on this computer at all
            job.note(TEXT["other"].format(url=self.url))
        with Image.open(BytesIO(self._client.image(id))) as file:
            image = file.convert("RGB")
        image.info.clear()  # the recipe in it is the other server's
        job.cached[index] = job.picture(job.save(image, recipe, index))


def _name(path: Path, folder: Path) -> str:
    """What a LoRA's file is called where the other server has the same one."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.stem


def _elsewhere(work: Work) -> Work:
    """The same work, its pictures drawn by a `Backend` before: it finds all of them, and puts them together."""

    def run(backend: Backend, job: Job, spec: Any) -> Iterator[None]:
        yield from backend.draw(job)
        yield from work(backend, job, spec) or ()

    return run
