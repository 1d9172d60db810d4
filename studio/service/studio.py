"""The only door: pages, command line and HTTP call `Studio`, and nothing behind it.

Loads neither torch nor streamlit: the engine is imported in the worker, at the first job. Knows no widget, no HTTP and
no argument parser; who an owner is, the caller decides.
"""

from __future__ import annotations

import platform
import shutil
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from studio.core.errors import BadInput, NotFound, StudioError
from studio.core.owners import private
from studio.core.settings import Settings
from studio.core.specs import AnimationFormat, BatchRow, ControlKind, ControlSpec, GenerateSpec, Request
from studio.core.views import (
    EVERYTHING,
    ControlView,
    Diagnosis,
    GalleryFilter,
    ImportedRecipe,
    JobView,
    Picture,
    PictureKind,
    SystemStatus,
)
from studio.engine import devices
from studio.engine.models.catalogue import resolve
from studio.features import characters, frames
from studio.features.experiment.job import report_of
from studio.features.registry import FEATURES, WORK, parse_spec
from studio.jobs.job import Job
from studio.jobs.log import JobLog, Orphan, Terms
from studio.jobs.queue import Jobs
from studio.jobs.total import Total
from studio.prompting.writers import PromptResult
from studio.service.datasets import DataSets
from studio.service.models import ModelLibrary
from studio.service.once import OTHER_REQUEST, named_id, request_digest
from studio.service.prompts import PromptService
from studio.service.resolving import Plan, Resolver
from studio.service.runs import TrainingRuns
from studio.service.sizes import default_size
from studio.service.versions import versions
from studio.service.word_pictures import WordPictures
from studio.store import metadata, prompt_list, uploads
from studio.store.bounds import keep_below
from studio.store.canvases import Canvases
from studio.store.database import Database
from studio.store.keys import Keys
from studio.store.pictures import Pictures, pixel_key

if TYPE_CHECKING:
    from studio.service.backend import Backend

BOUND_SECONDS = 30.0
LEAST_DISK = 64 * 2**20  # bytes free, without which no work should be sent here


class Studio:
    """One studio over one home folder. One per process, shared by all its threads; cheap until the first job.

    Every method raises `StudioError` subclasses whose message can be shown as it is.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.prompts = PromptService(settings)
        self.runs = TrainingRuns(settings, self._leave_the_card)
        self.datasets = DataSets(settings, self.runs.read_from)
        self.models = ModelLibrary(settings)
        self._database = database = Database(settings.database)
        self._pictures = Pictures(database, settings.images_dir, settings.cache_mb * 2**20)
        self.keys = Keys(database)
        self._log = JobLog(database, settings.home / "processes")
        self._resolver = Resolver(settings, self._pictures.get, self.prompts)
        self.words = WordPictures(settings, self._resolver, self._pictures)
        self._backend = _backend(settings)
        work = WORK if self._backend is None else self._backend.work()
        self._jobs = Jobs(self._log, work, self._make_engine, settings.queue_limit)
        self._canvases = Canvases(settings.home / "canvases")
        self._bounded = -BOUND_SECONDS  # when that was done last
        self._pictures.purge()
        self._log.forget()

    def warm_up(self) -> None:
        """Start the engine and load the model that pages start with, in the worker; a job that comes meanwhile waits.

        Nothing happens where STUDIO_WARM_UP is off, or the model would have to be downloaded.
        """
        if self.settings.warm_up and self._jobs.engine is self._backend is None:
            self._jobs.between_turns(self._load_default, start=True)

    def _load_default(self, engine: Any) -> None:
        if resolve(self.settings.model, self.settings, with_hash=False).path is not None:
            engine.components(self.settings.model)

    def _leave_the_card(self) -> bool:
        """Have the worker free its model behind the job that it works on; whether there was one on a card."""
        engine = self._jobs.engine
        status = engine.status() if engine is not None else {}
        if not status.get("loaded") or status["device"] == "cpu":
            return False
        self._jobs.between_turns(lambda engine: engine.free())
        return True

    def close(self) -> None:
        """Stop the worker within a step and free the files; what it was doing is left to others: see `take_over`."""
        self._jobs.close()
        if self._backend is not None:
            self._backend.close()
        self._database.close()

    def _make_engine(self) -> Any:
        if self._backend is not None:
            return self._backend
        from studio.engine.engine import Engine  # torch: seconds, and only here, in the worker

        return Engine(self.settings)

    # --- words of a request; more in `prompts` ---------------------------------------------------------------------

    def as_drawn(self, spec: GenerateSpec) -> PromptResult:
        """The prompt that is drawn for these fields when it is left to the writer (offline), traits and all."""
        return self._resolver.wording.as_drawn(spec)

    def traits(self, spec: GenerateSpec) -> dict[str, str]:
        """What these fields leave open about the character, as its seed decides it: {"hair_color": "red hair", ...}.

        Put into the words (`text`) they are locked: every next picture keeps them, whatever its seed. Empty for a
        prompt of one's own and while the seed is left to chance.
        """
        return {} if spec.seed is None else self._resolver.wording.traits(spec, spec.seed)

    # --- jobs -----------------------------------------------------------------------------------------------------

    def submit(self, spec: Request, owner: str, once: str = "") -> JobView:
        """Take a request and answer at once. What was drawn before isn't drawn again: then the job is done already.

        `once`: the sender's own name for this request (an idempotency key). Sent again under it, it is the same job,
        whichever process is asked. Raises `BadInput` (nothing was queued; also where another request had that name),
        `Busy` (too many wait, or the owner's key has had its pictures for today), `DiskFull`.
        """
        if spec.kind not in FEATURES:
            raise BadInput(f"This studio has no {spec.kind!r} jobs.")
        digest, id = (request_digest(spec), named_id(owner, once)) if once else ("", "")
        if once and (known := self._log.digest(id, owner)) is not None:
            if known != digest:
                raise BadInput(OTHER_REQUEST)
            return self.job(id, owner)
        plan = self._resolver.plan(spec, owner)
        if self._backend is not None:
            self._backend.check(plan.complete and bool(plan.recipes))
        cached = self._cached(plan, owner)
        notes = plan.notes
        if cached:
            count = len(plan.recipes)
            notes += (
                "This picture was there already: same recipe, same picture."
                if count == 1
                else f"{len(cached)} of {count} pictures were there already: same recipe, same picture.",
            )
        job = self._job(plan, owner, notes, cached, id)
        if plan.spec.kind == "generate" and len(cached) == len(plan.recipes):
            return self._jobs.finished(job, Terms(digest=digest))
        self._keep_bound()
        to_draw = max(len(plan.recipes) - len(cached), 0 if plan.complete else 1)
        return self._jobs.submit(job, Terms(to_draw, self._quota(owner), digest))

    def _keep_bound(self) -> None:
        """Have the worker see to it, now and then, that pictures don't take more disk than they may."""
        if self.settings.images_mb and time.monotonic() - self._bounded > BOUND_SECONDS:
            self._bounded = time.monotonic()
            most = self.settings.images_mb * 2**20
            self._jobs.between_turns(lambda engine: keep_below(most, self._pictures, self._database))

    def _quota(self, owner: str) -> int:
        """Pictures that this owner may have drawn in a day; 0: any number."""
        if not private(owner):
            return 0
        of_key = self.keys.per_day(owner)
        return self.settings.key_pictures if of_key is None else of_key

    def take_over(self) -> None:
        """Serve for good: what is accepted from now on is drawn, by another process if this one ends before.

        Likewise this one takes up what processes have left that are gone; their finished pictures are kept. For
        servers; a verb of the command line does its own work and nobody else's.
        """
        self._jobs.take_over(self._revived)

    def _revived(self, orphan: Orphan) -> Job:
        """The job that another process has left: the same pictures, those that are there already not drawn again."""
        plan = self._resolver.plan(parse_spec(orphan.spec), orphan.owner)
        cached = self._cached(plan, orphan.owner)
        return self._job(plan, orphan.owner, notes=orphan.view.notes, cached=cached, id=orphan.view.id)

    def _cached(self, plan: Plan, owner: str) -> dict[int, Picture]:
        pictures = {}
        for index, recipe in enumerate(plan.recipes if plan.complete else ()):
            picture = self._pictures.claim_cached(recipe, owner, title=plan.title)
            if picture is not None:
                pictures[index] = picture
        return pictures

    def _job(self, plan: Plan, owner: str, notes: Sequence[str], cached: Mapping[int, Picture], id: str = "") -> Job:
        return Job(
            plan.spec,
            owner,
            title=plan.title,
            recipes=plan.recipes,
            cached=cached,
            notes=tuple(notes),
            pictures=self._pictures,
            resolve=lambda request: self._resolver.recipes(request, owner, fixed=plan.fixed),
            wording=self._resolver.wording,
            model_title=plan.model_title,
            result=plan.result,
            id=id,
        )

    def job(self, id: str, owner: str) -> JobView:
        """The newest state of a job. Raises `NotFound`, also for somebody else's."""
        return self._jobs.view(id, owner)

    def jobs(self, owner: str, limit: int = 20) -> list[JobView]:
        """This owner's jobs, newest first."""
        return self._jobs.list(owner, limit)

    def job_spec(self, id: str, owner: str) -> Request:
        """The request of a job as it was resolved: its seed is filled in, so it can be repeated exactly."""
        return parse_spec(self._jobs.spec(id, owner))

    def again(self, id: str, owner: str, once: str = "") -> JobView:
        """The same request with the same seeds once more: finished pictures are taken over, the rest is drawn."""
        return self.submit(self.job_spec(id, owner), owner, once)

    def cancel(self, id: str, owner: str) -> JobView:
        """At once when it waits, within one sampling step when it runs. Raises `NotFound` for somebody else's job."""
        return self._jobs.cancel(id, owner)

    def wait(self, id: str, owner: str, timeout: float | None = None) -> JobView:
        """Block until the job is over, at most `timeout` seconds. For scripts; pages ask `job` now and then."""
        return self._jobs.wait(id, owner, timeout)

    # --- pictures -------------------------------------------------------------------------------------------------

    def picture(self, id: str, owner: str) -> Picture:
        return self._pictures.get(id, owner)

    def picture_bytes(self, id: str, owner: str) -> bytes:
        """The file as it is on the disk: a PNG with its recipe inside, or an animation."""
        return self._pictures.read(id, owner)

    def animation(self, id: str, owner: str, form: AnimationFormat) -> bytes:
        """A stored animation in any format, made again from its frames. Raises `BadInput` when some were deleted."""
        stored = self._pictures.get(id, owner)
        if "frames" not in stored.details:
            raise BadInput("This picture isn't an animation made here.")
        if stored.details.get("format") == form:
            return self._pictures.read(id, owner)
        files = [self._pictures.get(frame, owner).path for frame in stored.details["frames"]]
        return frames.encode(files, form, stored.recipe, **stored.details)

    def filmstrip(self, ids: Sequence[str], owner: str) -> bytes:
        """Stored frames side by side as one PNG, with the recipe of the first in it. Raises `NotFound`."""
        shown = [self._pictures.get(id, owner) for id in ids]
        return frames.filmstrip([picture.path for picture in shown], shown[0].recipe)

    def report(self, picture: Picture) -> dict[str, Any]:
        """The report that is kept with a picture, as an experiment's result has it. Raises `BadInput`."""
        return report_of(picture)

    def why_in_place(self, id: str, owner: str) -> str | None:
        """Why the character of a picture can only be changed in place; None where it can be drawn again."""
        return characters.why_in_place(self._pictures.get(id, owner).recipe)

    def picture_path(self, id: str, owner: str) -> Path:
        """Where the file is. Raises `NotFound`, also when it is gone from the disk."""
        return self._pictures.file(id, owner)

    def archive(self, ids: Sequence[str], owner: str) -> bytes:
        """A ZIP of these pictures as files numbered from 1, with their recipes in them; deleted ones leave a gap."""
        buffer, digits = BytesIO(), len(str(len(ids)))
        with zipfile.ZipFile(buffer, "w") as bundle:  # stored: PNGs don't get smaller
            for number, id in enumerate(ids, 1):
                with suppress(NotFound):
                    suffix = self._pictures.get(id, owner).path.suffix
                    bundle.writestr(f"{number:0{digits}}{suffix}", self._pictures.read(id, owner))
        return buffer.getvalue()

    def gallery(
        self,
        owner: str,
        query: str = "",
        favourites: bool = False,
        kind: PictureKind | None = None,
        offset: int = 0,
        limit: int = 60,
        only: GalleryFilter = EVERYTHING,
    ) -> list[Picture]:
        """This owner's pictures, newest first. `query`: tags and other words of the prompt, model, labels or title."""
        return self._pictures.gallery(owner, self.prompts.apart(query), favourites, kind, offset, limit, only)

    def gallery_count(
        self,
        owner: str,
        query: str = "",
        favourites: bool = False,
        kind: PictureKind | None = None,
        only: GalleryFilter = EVERYTHING,
    ) -> int:
        """How many `gallery` has."""
        return self._pictures.count(owner, self.prompts.apart(query), favourites, kind, only)

    def drawn_with(self, owner: str) -> tuple[list[str], list[str]]:
        """The models and the LoRAs of this owner's pictures, as their recipes name them."""
        return self._pictures.drawn_with(owner)

    def favourite(self, id: str, owner: str, on: bool = True) -> Picture:
        return self._pictures.favourite(id, owner, on)

    def delete(self, ids: Iterable[str], owner: str) -> int:
        """Returns how many were deleted; `undo_delete` brings these back for a day."""
        return self._pictures.delete(ids, owner)

    def undo_delete(self, owner: str) -> int:
        """Bring back what was deleted last. Returns how many came back."""
        return self._pictures.undo_delete(owner)

    def others(self, owner: str) -> dict[str, int]:
        """How many pictures other people have here, by owner; what keys of the API made isn't counted."""
        return self._pictures.others(owner)

    def hand_over(self, owners: Iterable[str], owner: str) -> int:
        """Make pictures, jobs and drawings of these people `owner`'s, for good; how many pictures that were."""
        for old in owners:
            if (drawing := self._canvases.load(old)) and not self._canvases.load(owner):
                self._canvases.save(drawing, owner)
        return self._pictures.hand_over(owners, owner)

    def upload(self, data: bytes, owner: str, name: str = "") -> Picture:
        """Check a picture file and keep it as RGB PNG. Its `id` can be a source, a drawing, a first frame.

        A picture that was drawn here, or with the same files elsewhere, keeps the recipe in it: in this owner's row
        only, never in the shared file. `details["notes"]` says what was changed, and why a recipe wasn't kept. Raises
        `BadInput` for what isn't a sound picture.
        """
        image, notes = uploads.clean(data, self.settings.max_upload_mb * 2**20)
        recipe = None
        try:
            recipe = self._resolver.proven(metadata.own(data), image.size, owner, self._pictures.model_with)
        except StudioError as error:
            notes += (f"The recipe in it isn't used. {error}",)
        id = pixel_key(image)  # never the recipe's key: nobody is to find made-up pixels under another's recipe
        title = "".join(c for c in Path(name).name if c.isprintable())[:80]
        return self._pictures.save_file(
            metadata.png(image, None), ".png", owner, id=id, size=image.size, recipe=recipe, kind="upload", title=title,
            details={"notes": list(notes)} if notes else {},
        )  # fmt: skip

    def control_image(
        self, data: bytes, control: ControlSpec, model: str = "embedded", size: tuple[int, int] | None = None
    ) -> ControlView:
        """What the model will get of a drawing (a picture file): quick enough to follow a pencil.

        `control.image` isn't read. Without `size` it is what a request without one would have. Raises `BadInput` with
        what is wrong with the drawing: empty, one colour, damaged, hardly a line.
        """
        from studio.engine.media import control_images as lines  # OpenCV: only where something is drawn

        image, _ = uploads.clean(data, self.settings.max_upload_mb * 2**20)
        if size is None:
            info = resolve(model, self.settings, with_hash=False)
            size = default_size(info.native_size, image.width / image.height, info.sizes)
        seen = lines.extract(image, control, size)
        png = metadata.png(seen.image, None)
        return ControlView(png=png, width=size[0], height=size[1], low=seen.low, high=seen.high)

    def drawable(self, id: str, owner: str) -> tuple[Picture, ControlKind]:
        """A picture to draw on, and how it is followed: `lines` for a drawing, dark on white, `canny` for any other."""
        from studio.engine.media import control_images as lines

        picture = self.picture(id, owner)
        kind, white = lines.drawable(self.picture_bytes(id, owner))
        return picture if white is None else self.upload(metadata.png(white, None), owner, picture.title), kind

    def save_canvas(self, data: dict[str, Any], owner: str) -> None:
        """Keep what is on this owner's canvas (strokes and what lies under them). Raises `BadInput` when it is huge."""
        self._canvases.save(data, owner)

    def canvas(self, owner: str) -> dict[str, Any]:
        """What `save_canvas` kept last; empty when nothing was."""
        return self._canvases.load(owner)

    def read_recipe(self, data: bytes) -> ImportedRecipe:
        """The recipe inside a picture file, ours or A1111's. Raises `BadInput` when there is none."""
        if len(data) > self.settings.max_upload_mb * 2**20:
            raise BadInput(f"The file is larger than the {self.settings.max_upload_mb} MB that are accepted.")
        return self._resolver.with_known_files(metadata.read(data), self._pictures.model_with)

    def recipe_of(self, id: str, owner: str) -> ImportedRecipe:
        """As `read_recipe` for a stored picture: its notes say what isn't here any more. Raises `BadInput`."""
        spec, recipe = self.spec_of(id, owner), self.picture(id, owner).recipe
        assert recipe is not None
        read = metadata.ReadRecipe(
            spec=spec, origin="studio", program="Anime Character Studio", notes=metadata.left_out(recipe),
            lora_hashes=recipe.lora_hashes, model_hash=recipe.model_hash,
        )  # fmt: skip
        return self._resolver.with_known_files(read, self._pictures.model_with, own=True)

    def spec_of(self, id: str, owner: str) -> GenerateSpec:
        """The request that makes this picture again. Raises `BadInput` for uploads without a recipe."""
        recipe = self.picture(id, owner).recipe
        if recipe is None:
            raise BadInput("This picture wasn't drawn here, so it has no recipe.")
        return metadata.request_of(recipe)

    def parse_rows(self, data: str | bytes, table: bool = False) -> tuple[BatchRow, ...]:
        """Prompts pasted, or a file of them (`table`: CSV). Raises `BadInput` that names bad lines, or its encoding."""
        return prompt_list.parse(prompt_list.decoded(data) if isinstance(data, bytes) else data, table)

    # --- models and machine -----------------------------------------------------------------------------------------

    def readiness(self) -> dict[str, bool]:
        """Whether work can be taken: database, disk, worker, and the model that requests begin with."""
        try:
            self._pictures.usage()
            database = True
        except StudioError:
            database = False
        try:
            model = resolve(self.settings.model, self.settings, with_hash=False).path is not None
        except StudioError:
            model = False
        disk = shutil.disk_usage(self.settings.home).free > LEAST_DISK
        return {"database": database, "disk": disk, "worker": self._jobs.works, "model": model}

    def totals(self) -> dict[tuple[str, str], Total]:
        """What this process has done, by kind of job and how it ended."""
        return dict(self._jobs.totals)

    def system(self) -> SystemStatus:
        """What there is and what was chosen. Cheap: asks nothing of the device that the worker doesn't know already."""
        engine = self._jobs.engine
        status: dict[str, Any] = engine.status() if engine is not None else {}
        count, size = self._pictures.usage()
        shown, cached = self._log.cache_figures()
        device = status.get("device") or ("backend" if self.settings.backend else devices.expected(self.settings))
        processor = platform.processor() or platform.machine() if device == "cpu" else ""
        return SystemStatus(
            loaded=bool(status.get("loaded")),
            device=device,
            device_name=self.settings.backend or status.get("device_name") or processor,
            dtype=status.get("dtype", ""),
            model=status.get("model"),
            choices=tuple(status.get("choices", ())),
            memory_used=psutil.Process().memory_info().rss,
            memory_total=psutil.virtual_memory().total,
            device_memory_used=status.get("device_memory_used"),
            device_memory_total=status.get("device_memory_total"),
            queue_waiting=self._jobs.waiting,
            queue_running=self._jobs.running,
            disk_free=shutil.disk_usage(self.settings.home).free,
            disk_used=size,
            disk_bound=self.settings.images_mb * 2**20 or None,
            pictures=count,
            cache_asked=shown,
            cache_found=cached,
            home=self.settings.home.resolve(),
            versions=versions(),
            troubles=tuple(devices.troubles(self.settings)),
        )

    def doctor(self) -> Diagnosis:
        """The machine examined: card, driver, torch, what is chosen and why, room, the hub, and what will not work.

        Takes seconds: torch is loaded in the calling thread, and the hub is asked.
        """
        from studio.engine import doctor

        return doctor.examine(self.settings)


def _backend(settings: Settings) -> Backend | None:
    if settings.backend is None:
        return None
    from studio.service.backend import Backend  # httpx, with which nobody else begins

    return Backend(settings)
