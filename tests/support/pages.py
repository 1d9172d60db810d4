"""Pages without a browser: `AppTest` from the studio's main script, what it shows, and jobs that a page follows.

Every function here needs the fixture `page_home`.
"""

from __future__ import annotations

from streamlit.testing.v1 import AppTest
from support.browser import REPOSITORY

from studio.core.specs import GenerateSpec
from studio.core.views import JobView
from studio.interfaces.web.resources import studio

MAIN = str(REPOSITORY / "studio" / "interfaces" / "web" / "main.py")
STEPS = 2
SHOWN = ("title", "subheader", "markdown", "caption", "info", "success", "warning", "error")


def app(page: str | None = None, owner: str | None = "me", **state: object) -> AppTest:
    """`page`, a file of `pages/` (None: the first), opened by `owner` (None: by a browser that was never here)."""
    at = AppTest.from_file(MAIN, default_timeout=90)
    for name, value in (state | ({"owner": owner} if owner else {})).items():
        at.session_state[name] = value
    return to(at, page) if page else at.run()


def to(at: AppTest, page: str) -> AppTest:
    at.switch_page(str(REPOSITORY / "pages" / f"{page}.py")).run()
    assert not at.exception
    return at


def prompt_of(at: AppTest) -> str:
    return " ".join(part.value for part in at.markdown).replace("\\", "")


def sentences(at: AppTest) -> str:
    """All text of the page that isn't a widget's."""
    return " ".join(str(part.value) for kind in SHOWN for part in at.get(kind)).replace("\\", "")


def finish(at: AppTest, owner: str = "me") -> JobView:
    """Wait for the job that the page follows, and draw the page again."""
    job = studio().wait(at.session_state["job:generate"], owner, 60)
    at.run()
    assert not at.exception
    return job


def draw(owner: str, **fields: object) -> str:
    """The name of a picture made for `owner`."""
    job = studio().submit(GenerateSpec(model=studio().settings.model, steps=STEPS, **fields), owner)
    done = studio().wait(job.id, owner, 60)
    assert done.state == "done", done.error
    return done.pictures[0]
