"""Pieces that every page uses: a running job, a picture with what can be done with it, model and LoRA pickers.

Each asks the service for data and draws it. Knows no page: where a picture can be sent is in `SEND_TO`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import streamlit as st
from PIL import Image, UnidentifiedImageError

from studio.core.errors import NotFound, StudioError
from studio.core.fields import describe
from studio.core.i18n import texts, translated
from studio.core.settings import settings
from studio.core.specs import GenerateSpec, LoraRef, Request
from studio.core.views import JobView, Picture
from studio.interfaces.web import frame, inputs, text
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio
from studio.service import ModelInfo

POLL = 0.5  # seconds between two looks at a running job
TEXT = {
    "queued": "Next in line",
    "ahead": "Waiting: {jobs} ahead",
    "starting": "Getting ready",
    "left": "about {time} left",
    "open": "Open {name}",
    "preview": "Preview of the picture being made",
    "downloads": "downloads {size}",
    "missing": "not here",
    "cancel": "Cancel",
    "cancelled": "Cancelled. What was finished is kept.",
    "interrupted": "The studio was closed while this was being made.",
    "resume": "Continue",
    "again": "Try again",
    "gone": "This job is not here any more. Its pictures, if it made any, are in the Gallery.",
    "favourite": "Favourite",
    "unfavourite": "Not a favourite any more",
    "download": "Download",
    "send": "Send to",
    "source": "Start from this picture",
    "recipe": "Load its recipe",
    "sketch": "Sketch (with its drawing)",
    "model": "Model",
    "model_help": "A model in the list, a Hugging Face id, a folder in diffusers format, or a .safetensors file.",
    "lora": "LoRAs",
    "lora_none": "No LoRAs yet: train one, or put a .safetensors file into {folder}",
    "lora_gone": "Not here, so not used: {names}. Without it the picture is another.",
    "lora_weight": "{name}: weight",
    "trigger": "Trigger words: {words}",
    "beside": "{name} was made with {names}: use it together with that.",
}
TEXT = texts(TEXT)
SEND_TO = {
    "emotion_morph": "Emotion morph",
    "img2img_animation": "Animation",
    "sketch_to_character": "Sketch (trace over it)",
    "retouch": "Retouch",
}
SEND_TO = texts(SEND_TO)


# --- jobs -----------------------------------------------------------------------------------------------------------


def start(spec: Request, page: str, *, of_form: bool = True) -> JobView:
    """Submit a request and make it the page's job, so that it is found again after a reload. Raises StudioError.

    `of_form`: it says what the page's form says, which a reload brings back; else a reload keeps to the request before.
    """
    job = studio().submit(spec, owner())
    if of_form:
        st.session_state[f"form:{page}"] = job.id
    else:
        st.session_state.setdefault(f"form:{page}", "")
    follow(job.id, page)
    return job


def follow(job_id: str, page: str) -> None:
    """Make a job the one that the page shows."""
    st.session_state[f"job:{page}"] = job_id
    st.query_params["job"] = job_id
    form = st.session_state.get(f"form:{page}", st.query_params.get("form", job_id))
    if form != job_id:
        st.query_params["form"] = form
    else:
        st.query_params.pop("form", None)


def form_job(page: str) -> str | None:
    """After a reload: the job whose request was the page's form, if there was one."""
    job_id: str | None = st.query_params.get("form", st.query_params.get("job"))
    st.session_state.setdefault(f"form:{page}", job_id or "")
    return job_id or None


def current_job(page: str) -> str | None:
    """The page's job: from the address (a reload, a link), else from this session (back from another page).

    One that failed stays in the session alone: a reload starts afresh.
    """
    job_id: str | None = st.query_params.get("job") or st.session_state.get(f"job:{page}")
    if job_id and job_id != st.session_state.get(f"failed:{page}"):
        follow(job_id, page)
    return job_id


def forget_job(page: str) -> None:
    """Let the page be empty again; the job itself goes on."""
    st.session_state.pop(f"job:{page}", None)
    st.query_params.pop("job", None)
    st.query_params.pop("form", None)


@contextmanager
def refusals(page: str) -> Iterator[None]:
    """What the studio refuses inside is a toast at once, and stands where the page calls `refusal`, until the next run.

    The rest of the page goes on: without this the error would end it.
    """
    try:
        yield
    except StudioError as problem:
        st.session_state[f"refused:{page}"] = str(problem)
        st.toast(text.say(problem), icon=":material/error:")


def refusal(page: str, container: Any) -> None:
    """Show what was refused in this run, in place of what `container` (an `st.empty`) says."""
    problem = st.session_state.pop(f"refused:{page}", None)
    if problem:
        container.error(text.say(problem), icon=":material/error:")


def job_panel(
    job_id: str,
    page: str,
    *,
    size: int | None = None,
    container: Any = None,
    working: Callable[[JobView], None] | None = None,
) -> JobView | None:
    """A job while it works: preview, progress, time left, place in the line, cancel. The page goes on at once.

    Polls by itself and reruns the page when the job is over. Afterwards it shows how it ended, if there is something
    to say, and returns the job; the caller draws `job.pictures`. None when there is no such job for this browser.
    `size`: width of the preview in pixels; None: as wide as the place. `container`: where it is said how the job ended
    (an `st.empty`), if not here. `working`: shows it instead, while it works (again and again; how far it is, then,
    is said elsewhere).
    """
    try:
        job = studio().job(job_id, owner())
    except StudioError:
        forget_job(page)
        st.info(TEXT["gone"], icon=":material/search_off:")
        return None
    if job.active:
        st.fragment(_working, run_every=POLL)(job_id, size, working)
        return job
    if job.state != "done":
        with container.container() if container is not None else st.container():
            _ended(job, page)
    return job


def _ended(job: JobView, page: str) -> None:
    if job.state == "failed":
        st.session_state[f"failed:{page}"] = job.id
        st.query_params.pop("job", None)
        st.error(text.say(job.error or frame.TEXT["failed"]), icon=":material/error:")
    elif job.state == "cancelled":
        st.info(TEXT["cancelled"], icon=":material/cancel:")
    elif job.state == "interrupted":
        st.warning(TEXT["interrupted"], icon=":material/power_off:")
    label = TEXT["resume" if job.state == "interrupted" else "again"]
    if st.button(label, key=f"again_{job.id}", icon=":material/refresh:"):
        follow(studio().again(job.id, owner()).id, page)
        st.rerun()


def _working(job_id: str, size: int | None, instead: Callable[[JobView], None] | None) -> None:
    job = studio().job(job_id, owner())
    if not job.active:
        st.rerun()
    if instead is not None:
        instead(job)
    else:
        preview(job, size)
        _line(job)


def preview(job: JobView, size: int | None = None) -> None:
    """What there is to see of a job at work: its preview, else the last picture that it finished."""
    latest = job.preview or next(filter(None, map(_seen, reversed(job.pictures))), None)
    with st.container(key="stage_single_live"):
        if latest:
            st.image(latest, width=size or "stretch", alt=TEXT["preview"])
        else:
            st.html('<div class="studio-waiting"></div>')  # as large as the picture that will take its place


def _seen(picture_id: str) -> bytes | None:
    """A picture's file; None for a ZIP or a film, and for what was deleted since."""
    with suppress(StudioError):
        if studio().picture(picture_id, owner()).drawable:
            return studio().picture_bytes(picture_id, owner())
    return None


def line(job_id: str) -> None:
    """How far a job is, and the button that cancels it: beside a page's own button, where its place is elsewhere."""
    st.fragment(_polled_line, run_every=POLL)(job_id)


def _polled_line(job_id: str) -> None:
    job = studio().job(job_id, owner())
    if not job.active:
        st.rerun()
    _line(job)


def _line(job: JobView) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="job_line"):
        st.progress(job.fraction, text=progress_text(job))
        if st.button(TEXT["cancel"], key=f"cancel_{job.id}", icon=":material/stop_circle:"):
            studio().cancel(job.id, owner())
            st.rerun(scope="fragment")


def progress_text(job: JobView) -> str:
    """One line on how far a job is: its place in the line, or its step and the time left."""
    if job.state == "queued":
        return TEXT["ahead"].format(jobs=text.plural(job.position, "job")) if job.position else TEXT["queued"]
    parts = [text.say(job.note) if job.note else "" if job.done else TEXT["starting"]]
    if job.total > 1 and job.done:
        parts.append(f"{job.fraction:.0%}")
    if job.seconds_left is not None and job.done:
        parts.append(TEXT["left"].format(time=text.duration(job.seconds_left)))
    return " · ".join(part for part in parts if part)


# --- pictures -------------------------------------------------------------------------------------------------------


@st.cache_data(max_entries=2000, show_spinner=False)
def _thumbnail(picture_id: str, side: int, _load: Callable[[], bytes]) -> bytes:
    with Image.open(io.BytesIO(_load())) as image:
        image.seek(0)
        small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def upload(label: str, key: str, **options: Any) -> Any:
    """A picture file that somebody chose, once: then the place for it is empty, and takes the same file again."""
    number = st.session_state.get(f"{key}_number", 0)
    types = ["png", "jpg", "jpeg", "webp", "gif", "bmp"]
    file = st.file_uploader(label, types, key=f"{key}_{number}" if number else key, **options)
    if file is not None:
        st.session_state[f"{key}_number"] = number + 1
    return file


def thumbnail(picture: Picture, side: int = 360) -> bytes:
    """A small JPEG of a picture, kept in memory. Only for pictures that the service gave to this owner.

    A grey tile where its file is gone: one lost picture must not hide the others.
    """
    try:
        return _thumbnail(picture.id, side, lambda: studio().picture_bytes(picture.id, owner()))
    except (NotFound, UnidentifiedImageError):
        stream = io.BytesIO()
        Image.new("RGB", (side, side), "#8883a0").save(stream, "JPEG")
        return stream.getvalue()


def picture_card(picture: Picture, key: str, caption: str | None = None) -> bool:
    """A picture in a grid; True when it was clicked (or opened by keyboard)."""
    name = text.name(picture)
    wide = "wide_" if picture.kind in ("sheet", "grid", "report") else ""  # shown whole: a single cell says little
    with st.container(key=f"card_{wide}{key}"):
        st.image(thumbnail(picture), width="stretch", alt=name)
        opened = st.button(TEXT["open"].format(name=name), key=f"open_{key}")
        if caption is not None:
            st.caption(caption)
    return opened


def favourite_button(picture: Picture, key: str) -> None:
    """A heart that remembers."""
    icon = ":material/favorite:" if not picture.favourite else ":material/heart_check:"
    label = TEXT["unfavourite" if picture.favourite else "favourite"]
    st.button(
        TEXT["favourite"],
        key=f"favourite_{key}",
        icon=icon,
        type="primary" if picture.favourite else "secondary",
        help=label,
        on_click=_mark,
        args=(picture.id, not picture.favourite),
    )


def _mark(picture_id: str, favourite: bool) -> None:
    studio().favourite(picture_id, owner(), favourite)


def download(picture: Picture, key: str) -> None:
    """The file itself, with its recipe inside."""
    suffix = picture.path.suffix or ".png"
    name = "-".join(part for part in (*_labels(picture), picture.id[:8]) if part) + suffix
    service, mine = studio(), owner()  # the file is asked for later, by a thread that knows no session
    st.download_button(
        TEXT["download"],
        data=lambda: service.picture_bytes(picture.id, mine),
        file_name=name,
        key=f"download_{key}",
        icon=":material/download:",
        on_click="ignore",
    )


def _labels(picture: Picture) -> tuple[str, ...]:
    labels = picture.recipe.labels if picture.recipe else {}
    return tuple(labels[name] for name in ("emotion", "style") if labels.get(name))


def send_menu(picture: Picture, key: str) -> None:
    """Take a picture to another page: to morph, to animate, to trace, to start from, or to load its recipe."""
    options = {name: label for name, label in SEND_TO.items() if frame.has_page(name)}
    if picture.recipe is not None and picture.recipe.control is not None and "sketch_to_character" in options:
        options["sketch_to_character"] = TEXT["sketch"]
    options |= {"source": TEXT["source"]}
    if picture.recipe is not None:
        options |= {"recipe": TEXT["recipe"]}
    chosen = st.menu_button(
        TEXT["send"], list(options), key=f"send_{key}", icon=":material/send:", format_func=lambda name: options[name]
    )
    if chosen in ("source", "recipe"):
        st.session_state["send"] = {"page": "generate", "picture": picture.id, "as": chosen}
        go("generate")
    elif chosen:
        st.session_state["send"] = {"page": chosen, "picture": picture.id}
        go(chosen)


def go(page: str) -> None:
    """To another page, with an empty address."""
    st.switch_page(frame.page_path(page))


def sent(page: str) -> dict[str, str] | None:
    """What another page sent here, once: {"page", "picture"} and perhaps more. None when nothing was."""
    waiting: dict[str, str] | None = st.session_state.get("send")
    if waiting is None or waiting.get("page") != page:
        return None
    del st.session_state["send"]
    return waiting


# --- fields ---------------------------------------------------------------------------------------------------------


def model_picker(key: str, label: str = "", models: Sequence[ModelInfo] | None = None) -> str:
    """A model by reference: one of the list, or typed. `models`: the list, where the page has read it already."""
    known = {model.reference: model for model in (studio().models.list() if models is None else models)}

    def named(reference: str) -> str:
        model = known.get(reference)
        if model is None:
            return reference.rstrip("/").rsplit("/", 1)[-1] if reference.startswith("/") else reference
        size = " · " + TEXT["downloads"].format(size=text.size(model.size_bytes)) if model.size_bytes else ""
        state = {"ready": "", "download": size + (f" · {model.license}" if model.license else "")}
        return f"{text.MODEL_NAMES.get(reference, model.title)}{state.get(model.state, ' · ' + TEXT['missing'])}"

    options = [name for name, model in known.items() if model.state != "missing"]
    default = settings().model
    if default not in options:
        options.insert(0, default)
    chosen = st.session_state.get(key)
    if chosen and chosen not in options:
        options.insert(0, chosen)
    picked = st.selectbox(
        label or TEXT["model"],
        options,
        index=options.index(default),
        key=key,
        format_func=named,
        help=TEXT["model_help"],
        accept_new_options=True,
        persist_state="session",
    )
    return (picked or default).strip()


def upscaler_picker(key: str) -> str:
    """What enlarges, by reference: the studio's own network, the filter, or a file of somebody's."""
    known = {info.reference: translated(info.title) for info in studio().models.upscalers()}
    first = describe(GenerateSpec, "upscaler")
    chosen: str = st.session_state.get(key) or first.default
    picked = st.selectbox(
        first.label, list(dict.fromkeys([*known, chosen])), key=key, format_func=lambda name: known.get(name, name),
        help=first.help, persist_state="session",
    )  # fmt: skip
    return picked or chosen


def put_loras(key: str, refs: Sequence[LoraRef]) -> None:
    """Choose these LoRAs in the picker `key`, in place of what is chosen. Raises StudioError when one isn't here."""
    state = st.session_state
    paths: dict[str, None] = {}  # in order, each once
    for ref in refs:
        lora = studio().models.lora(ref.path)
        paths[str(lora.path)] = None
        state[f"{key}_weight_{lora.hash}"] = ref.weight
    state[key] = list(paths)
    state.pop(f"{key}_gone", None)


def lora_picker(key: str) -> tuple[LoraRef, ...]:
    """LoRAs and how strongly each is applied. One that is chosen and isn't here any more is named, until it's seen to.

    Files outside of the list can't be chosen here, but one that a recipe brought is used like the others.
    """
    state = st.session_state
    loras = {str(lora.path): lora for lora in studio().models.loras()}
    asked = list(state.get(key) or ())
    for path in asked:
        if path not in loras:
            try:
                loras[path] = studio().models.lora(path)
            except StudioError:
                state.setdefault(f"{key}_gone", []).append(path.replace("\\", "/").rsplit("/", 1)[-1])
    kept = [path for path in asked if path in loras]
    if kept != asked:
        state[key] = kept
    if gone := state.get(f"{key}_gone"):
        names = ", ".join(text.escape(name) for name in gone)
        st.warning(TEXT["lora_gone"].format(names=names), icon=":material/link_off:")
    if not loras:
        st.caption(TEXT["lora_none"].format(folder=f"`{settings().models_dir / 'loras'}`"))
        return ()
    chosen: Sequence[str] = st.multiselect(
        TEXT["lora"], list(loras), key=key, format_func=lambda path: loras[path].title, persist_state="session",
        on_change=state.pop, args=(f"{key}_gone", None),
    )  # fmt: skip
    picked = []
    for path in chosen:
        lora = loras[path]
        weight = inputs.number(
            LoraRef,
            "weight",
            f"{key}_weight_{lora.hash}",
            label=TEXT["lora_weight"].format(name=lora.title),
            slider=True,
            value=lora.weight,
        )
        if lora.trigger_words:
            st.caption(TEXT["trigger"].format(words=text.escape(", ".join(lora.trigger_words))))
        if lora.beside:
            names = ", ".join(f"{text.escape(title)} ({weight:g})" for title, weight in lora.beside)
            st.caption(TEXT["beside"].format(name=text.escape(lora.title), names=names))
        picked.append(LoraRef(path=path, weight=weight))
    return tuple(picked)
