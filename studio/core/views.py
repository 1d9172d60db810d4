"""What the service answers with, as frozen data: jobs, pictures, the state of the machine.

Pages draw these, the API sends them as JSON, the command line prints them. A view is a snapshot: it never changes
after it was handed out, and asking again gives a newer one. Nothing here knows where the data comes from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from studio.core.specs import GenerateSpec, Recipe, RunKindName

# Whose words a recipe is in: A1111's text is written by its whole family.
Origin = Literal[
    "studio",
    "a1111",
    "civitai",
    "comfyui",
    "invokeai",
    "fooocus",
    "swarmui",
    "novelai",
    "drawthings",
    "tensorart",
    "other",
]
JobState = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
ACTIVE: tuple[JobState, ...] = ("queued", "running")

# What a file in the store is. Uploads, control images and frames have rows of their own but don't crowd the gallery.
PictureKind = Literal["picture", "sheet", "grid", "sketch", "animation", "report", "frame", "control", "upload"]
GALLERY_KINDS: tuple[PictureKind, ...] = ("picture", "sheet", "grid", "sketch", "animation", "report")
PARTS: tuple[PictureKind, ...] = ("frame", "control")  # go with the last animation, sheet or picture they belong to


class View(BaseModel):
    """Frozen and closed, like the specs."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GalleryFilter(View):
    """Which pictures of a gallery are meant, beside words; blank fields leave everything in.

    `model` and `lora` are references as recipes have them, `since` and `until` seconds since 1970.
    """

    emotion: str | None = None
    style: str | None = None
    model: str | None = None
    lora: str | None = None
    since: float | None = None
    until: float | None = None


EVERYTHING = GalleryFilter()


class JobView(View):
    """One job as its owner sees it.

    `position` counts the jobs that go first (0 when running or over). `done` of `total` are steps of work, comparable
    only within one job. `preview` is a JPEG of the picture being made. `pictures` are ids in the store, in the order
    of the request; they appear one by one. `result` depends on the kind.
    """

    id: str
    kind: str
    title: str
    state: JobState
    position: int = 0
    done: int = 0
    total: int = 0
    note: str = ""
    seconds_left: float | None = None
    preview: bytes | None = Field(default=None, exclude=True, repr=False)
    pictures: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()  # those of `pictures` that were there already
    result: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()  # true sentences about how the request was understood
    error: str | None = None
    bad_input: bool = False  # the error is about the request; False: about the machine or the studio
    created: float  # seconds since 1970, like every time here
    started: float | None = None
    finished: float | None = None

    @property
    def active(self) -> bool:
        """Still waiting or working: worth asking again."""
        return self.state in ACTIVE

    @property
    def fraction(self) -> float:
        """Share done, 0 to 1."""
        if self.state == "done":
            return 1.0
        return min(1.0, self.done / self.total) if self.total else 0.0


class Picture(View):
    """One file of one owner. `id` is its content key: the same picture has the same id for every owner."""

    id: str
    owner: str = Field(exclude=True)
    recipe: Recipe | None  # None for pictures from elsewhere
    path: Path = Field(exclude=True)
    kind: PictureKind = "picture"
    title: str = ""
    created: float
    favourite: bool = False
    cached: bool = False  # was there already when its owner asked for it the last time
    job: str | None = None
    width: int
    height: int
    size_bytes: int
    details: dict[str, Any] = Field(default_factory=dict)  # layout of a sheet, frames of an animation

    @property
    def drawable(self) -> bool:
        """Whether the file is a picture that a browser shows: no ZIP and no film."""
        return self.path.suffix in (".png", ".jpg", ".gif", ".apng", ".webp")


class ControlView(View):
    """What a ControlNet would be shown of a drawing: a PNG, white on black, in the size of the picture to be made."""

    png: bytes = Field(repr=False)
    width: int
    height: int
    low: int | None = None  # Canny thresholds that were used
    high: int | None = None


class ImportedRecipe(View):
    """A recipe read from a picture file, as a request that can be edited and drawn."""

    spec: GenerateSpec
    origin: Origin
    program: str = ""  # that made the picture, as people call it
    notes: tuple[str, ...] = ()  # what couldn't be taken over exactly, one sentence each
    written: GenerateSpec | None = None  # the same with models and LoRAs as the file names them
    model_hash: str = ""  # of the model it was made with; A1111 writes the first ten digits


class KeyView(View):
    """A key of the HTTP API, without the key. `id` tells keys of one name apart."""

    id: str
    name: str
    created: float
    expires: float | None = None  # None: good until it is revoked
    per_minute: int | None = None  # requests; None: as the settings say, 0: any number
    per_day: int | None = None  # pictures, likewise
    state: Literal["valid", "expired", "revoked"]


class DataSetView(View):
    """A data set of training by its name. `own`: it may be changed and deleted; others are everybody's to read."""

    name: str
    own: bool


class Choice(View):
    """One optimisation that was chosen or not, and why."""

    name: str
    on: bool
    reason: str


class Trouble(View):
    """Something that won't work on this machine, and the command that mends it; "" where none does."""

    what: str  # one sentence
    command: str = ""

    def __str__(self) -> str:
        return f"{self.what} This mends it: {self.command}" if self.command else self.what


class Finding(View):
    """One thing that is known of a machine."""

    name: str
    value: str
    reason: str = ""  # one sentence, where there is something to say about it


class Diagnosis(View):
    """What a machine has and what was chosen for it, what will not work, and what mends that."""

    findings: tuple[Finding, ...]
    choices: tuple[Choice, ...] = ()
    troubles: tuple[Trouble, ...] = ()


class SystemStatus(View):
    """The machine and the studio on it, for the System page and `GET /status`."""

    loaded: bool  # False until the first job: nothing about the device is known before
    device: str
    device_name: str = ""
    dtype: str = ""
    model: str | None = None
    choices: tuple[Choice, ...] = ()
    memory_used: int = 0  # bytes, of this process
    memory_total: int = 0
    device_memory_used: int | None = None
    device_memory_total: int | None = None
    queue_waiting: int = 0
    queue_running: int = 0
    disk_free: int = 0
    disk_used: int = 0  # bytes of pictures
    disk_bound: int | None = None  # bytes that pictures may take
    pictures: int = 0
    cache_asked: int = 0  # pictures that jobs of the last 30 days were asked for, by everybody
    cache_found: int = 0  # those of them that were there already
    home: Path
    versions: dict[str, str] = Field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()


class RunView(View):
    """One training run as anybody who may use the studio sees it. Figures are None until the trainer knows them.

    `state`: queued, starting, running, done, stopped, failed or crashed (nobody holds its lock). Times are seconds
    since 1970, durations seconds. `metrics` and `log` are filled for a single run only, not in a list.
    """

    id: str
    kind: RunKindName
    name: str
    model: str
    state: str
    stage: str = ""
    step: int = 0
    steps: int = 0
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    smoothed: float | None = None
    rate: float | None = None
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    checkpoints: tuple[str, ...] = ()  # names, oldest first
    samples: tuple[Path, ...] = ()
    adapter: Path | None = None  # the finished LoRA (a file as A1111, ComfyUI and kohya read it), model or ControlNet
    notes: tuple[str, ...] = ()
    error: str | None = None
    started: float | None = None
    finished: float | None = None
    spec: dict[str, Any] = Field(default_factory=dict)
    extra: dict[str, Any] = Field(
        default_factory=dict
    )  # what this kind of run says besides (the curve of a distillation)
    metrics: tuple[dict[str, Any], ...] = ()
    log: str = ""

    @property
    def active(self) -> bool:
        return self.state in ("queued", "starting", "running")

    @property
    def fraction(self) -> float:
        """Share done, 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps else float(self.state == "done")
