"""What stands around every page: theme, mark, navigation, the line about a job that is still running.

Pages are files in `pages/`; the navigation lists those that are there. Knows nothing of what they do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import streamlit as st

from studio.core.errors import StudioError
from studio.core.i18n import N_, _, texts, translated
from studio.core.settings import REPOSITORY, settings
from studio.core.views import JobView
from studio.interfaces.web import belongings, kept, language, text
from studio.interfaces.web.gate import LOGOUT
from studio.interfaces.web.identity import owner
from studio.interfaces.web.resources import studio

PAGES = REPOSITORY / "pages"
SIDEBAR = 248  # pixels
RUN_POLL = 10  # seconds between two looks at the runs that train
RUN_ICONS = {
    "done": ":material/check_circle:",
    "stopped": ":material/pause_circle:",
    "failed": ":material/error:",
    "crashed": ":material/power_off:",
}
STATIC = Path(__file__).parent / "static"
SECTIONS = {
    N_("Create"): ("generate", "emotion_morph", "sketch_to_character", "retouch", "img2img_animation"),
    N_("Teach"): ("train_lora", "distill_lcm"),
    N_("Library"): ("gallery", "system"),
}
# Which page shows a job of which kind.
HOME_OF = {
    "generate": "generate",
    "sheet": "generate",
    "grid": "generate",
    "batch": "generate",
    "experiment": "generate",
    "morph": "emotion_morph",
    "sketch": "sketch_to_character",
    "inpaint": "retouch",
    "upscale": "gallery",
    "animate": "img2img_animation",
    "sprites": "emotion_morph",
    "caption": "train_lora",
}
TEXT = {
    "drawing": "Drawing",
    "writing": "Writing",
    "waiting": "Waiting",
    "leave": "Log out",
    "run_done": "{name} is finished.",
    "run_stopped": "{name} is stopped.",
    "run_failed": "{name} failed: {error}",
    "run_crashed": "{name} was cut off: its process was ended from outside.",
    "no_page": "There is no page {name} here, so this is {shown}.",
    "failed": "Something went wrong inside the studio. It is written down in its log; what you made is safe.",
}
TEXT = texts(TEXT)


def begin() -> None:
    """Draw the frame and run the page that the address names."""
    language.begin()
    st.set_page_config(page_icon=str(STATIC / "mark.svg"), layout="wide", initial_sidebar_state=SIDEBAR)
    st.html(STATIC / "studio.css")
    st.logo(str(STATIC / "mark.svg"), size="large")  # its name stands beside it by the style sheet, in the theme's font
    belongings.come_along()
    page = st.navigation(navigation())
    kept.remember()
    # The canvas must know whether this run is the first on its page.
    st.session_state["_arrived"] = st.session_state.get("_last_page") != page.url_path
    st.session_state["_last_page"] = page.url_path
    with st.sidebar:
        elsewhere = [job for job in studio().jobs(owner(), limit=6) if job.active and not _shown(job, page.url_path)]
        if elsewhere:
            st.fragment(busy_line, run_every=3)(page.url_path)
        if announce_runs():
            st.fragment(announce_runs, run_every=RUN_POLL)()
        language.choose()
        if settings().password is not None:
            belongings.whose()
            st.html(f'<a class="studio-leave" href="{LOGOUT}" target="_self">{TEXT["leave"]}</a>')
    if unknown := unknown_page():
        st.warning(
            TEXT["no_page"].format(name=text.escape(unknown), shown=text.PAGE_NAMES["generate"][0]),
            icon=":material/search_off:",
        )
    try:
        page.run()
    except StudioError as problem:
        _say(translated(str(problem)))


def unknown_page() -> str | None:
    """What the address names where there is no such page, and Streamlit shows the first one without a word."""
    path = urlsplit(st.context.url or "").path  # without the name of a page that there is
    path = path.removeprefix("/" + (st.get_option("server.baseUrlPath") or "").strip("/")).lstrip("/")
    return path if path and not path.endswith("/") and path not in text.PAGE_NAMES else None


def _say(problem: str) -> None:
    # The end of the page, where the error is put, may be far below what somebody sees of it.
    st.toast(text.say(problem), icon=":material/error:")
    st.error(text.say(problem), icon=":material/error:")


def has_page(name: str) -> bool:
    """Whether `pages/<name>.py` is there to go to."""
    return (PAGES / f"{name}.py").is_file()


def page_path(name: str) -> str:
    """A page as `st.switch_page` and `st.page_link` want it."""
    return str(PAGES / f"{name}.py")


def navigation() -> dict[str, list[Any]]:
    """The pages that are there, under their headings."""
    listed: dict[str, list[Any]] = {}
    for heading, names in SECTIONS.items():
        for name in names:
            if has_page(name):
                title, icon = text.PAGE_NAMES[name]
                page = st.Page(PAGES / f"{name}.py", title=title, icon=icon, url_path=name, default=name == "generate")
                listed.setdefault(_(heading), []).append(page)
    return listed


def _shown(job: JobView, url_path: str) -> bool:
    return job.id in (st.query_params.get("job"), st.session_state.get(f"job:{url_path or 'generate'}"))


def busy_line(url_path: str) -> None:
    """In the sidebar: one line for each of this browser's jobs on other pages that isn't over, with a link there."""
    for job in studio().jobs(owner(), limit=6):
        if not job.active or _shown(job, url_path):
            continue
        page = HOME_OF.get(job.kind)
        share = f" · {job.fraction:.0%}" if job.state == "running" else ""
        doing = "waiting" if job.state == "queued" else "writing" if job.kind == "caption" else "drawing"
        label = f"{TEXT[doing]}: {text.escape(job.title)}{share}"
        if page and has_page(page):
            st.page_link(page_path(page), label=label, icon="spinner", query_params={"job": job.id})
        else:
            st.caption(label)


def announce_runs() -> bool:
    """Say, on whatever page, which training runs ended since this browser's last look; whether any trains now."""
    try:
        runs = studio().runs.list()
    except StudioError:  # a system without training, and the pages about it say so
        return False
    training = {run.id for run in runs if run.active}
    before = st.session_state.get("_training", set())
    st.session_state["_training"] = training
    for run in runs:
        if run.id in before and run.state in RUN_ICONS:
            words = TEXT[f"run_{run.state}"]
            said = words.format(name=text.escape(run.name), error=text.say(run.error or ""))
            st.toast(said, icon=RUN_ICONS[run.state])
    return bool(training)


def on_script_error(error: Exception) -> bool:
    """What a page shows when the studio has a bug: one sentence. Streamlit writes the traceback to the log."""
    language.begin()
    _say(translated(str(error)) if isinstance(error, StudioError) else TEXT["failed"])
    return True
