"""A feature that is a folder and a line in the registry is known to JSON, HTTP, queue and command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MIRROR = """
from typing import Annotated, Literal

from PIL import ImageOps
from pydantic import Field

from studio.core.fields import About
from studio.core.specs import Request
from studio.features.feature import Feature, Planned, Verb


class MirrorSpec(Request):
    kind: Literal["mirror"] = "mirror"
    image: Annotated[str, Field(title="The picture"), About(file="picture")]


def plan(spec, planning):
    return Planned(spec, complete=False, title=planning.picture(spec.image).title, result={"source": spec.image})


def mirror(engine, job, spec):
    job.save(ImageOps.mirror(job.image(spec.image)), None, id=job.key("mirror", spec.image))
    yield


MIRROR = Feature(MirrorSpec, plan, mirror, Verb("Change left and right of a picture."))
"""

TOY = """
import importlib.abc
import importlib.machinery
import json
import sys
import time
from pathlib import Path

REGISTRY = "studio.features.registry"
home = Path(sys.argv[1])
import studio.features
studio.features.__path__.append(str(home))


class WithMirror(importlib.machinery.SourceFileLoader):
    def get_data(self, path):
        source = super().get_data(path).decode()
        for old, new in (
            ("from studio.features.morph ", "from studio.features.mirror import MIRROR\\nfrom studio.features.morph "),
            ("        CAPTION,\\n", "        CAPTION,\\n        MIRROR,\\n"),
        ):
            assert old in source
            source = source.replace(old, new, 1)
        return source.encode()

    def get_code(self, fullname):
        return self.source_to_code(self.get_data(self.path), self.path)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != REGISTRY:
            return None
        file = f"{path[0]}/registry.py"
        return importlib.machinery.ModuleSpec(name, WithMirror(name, file), origin=file)


sys.meta_path.insert(0, Finder())

from fastapi.testclient import TestClient
from PIL import Image, ImageOps
from typer.testing import CliRunner

from studio.core.settings import Settings
from studio.interfaces.api.app import create
from studio.interfaces.cli import terminal
from studio.interfaces.cli.main import app
from studio.service import Studio

studio = Studio(Settings(home=home, offline=True, named_only=True, _env_file=None))
studio._jobs._make_engine = object  # nothing is drawn
http = TestClient(create(studio.settings, studio), base_url="http://127.0.0.1")
original = Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1.5), 20).convert("RGB")
original.save(home / "picture.png")


def of_the_mirrored(path):
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes() == ImageOps.mirror(original).tobytes()


# HTTP, JSON and the queue
id = http.post("/images", files={"file": ("picture.png", (home / "picture.png").read_bytes())}).json()["id"]
job = http.post("/jobs", json={"kind": "mirror", "image": id}).json()
deadline = time.monotonic() + 60
while job["state"] in ("queued", "running") and time.monotonic() < deadline:
    time.sleep(0.05)
    job = http.get(f"/jobs/{job['id']}").json()
assert job["state"] == "done", job
(home / "drawn.png").write_bytes(http.get(f"/images/{job['pictures'][0]}").content)
assert of_the_mirrored(home / "drawn.png")

# a verb that answers with its pictures and copies them
terminal.open_studio = lambda: studio
options = ["mirror", "--image", str(home / "picture.png"), "--out", str(home / "out"), "--json"]
done = CliRunner().invoke(app, options)
assert done.exit_code == 0, done.output
[answer] = json.loads(done.stdout.splitlines()[-1])["images"]
assert Path(answer["path"]).parent == home / "out" and of_the_mirrored(answer["path"])
studio.close()
"""


def test_a_new_feature_is_a_folder_and_a_line(tmp_path: Path) -> None:
    (tmp_path / "mirror.py").write_text(MIRROR, encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", TOY, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
