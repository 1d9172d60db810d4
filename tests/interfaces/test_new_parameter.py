"""A parameter that is written into its spec and nowhere else is known on every way in and out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOY = """
import importlib.abc
import importlib.machinery
import json
import sys
from pathlib import Path

SPEC = "studio.core.specs.picture"
FIELD = '''
    hue: Annotated[
        int,
        Field(title="Hue", ge=0, le=9),
        About(infotext=Infotext("Hue"), axis="0, 3", of_model=True,
              elsewhere=Elsewhere(a1111=("hue", "HUE_of_all"), comfyui=("tint",), read=abs)),
    ] = 0
'''


class WithHue(importlib.machinery.SourceFileLoader):
    def get_data(self, path):
        line = b"    redraw: Redraw = False\\n"
        source = super().get_data(path)
        assert line in source
        return source.replace(line, line + FIELD.encode(), 1)

    def get_code(self, fullname):
        return self.source_to_code(self.get_data(self.path), self.path)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != SPEC:
            return None
        file = f"{path[0]}/picture.py"
        return importlib.machinery.ModuleSpec(name, WithHue(name, file), origin=file)


sys.meta_path.insert(0, Finder())

from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from studio.core.settings import Settings
from studio.core.specs import GenerateSpec, MaskSpec
from studio.features.inpaint.spec import InpaintSpec
from studio.features.sheets.spec import AXES
from studio.interfaces.api.app import create
from studio.interfaces.api.routes import sdapi
from studio.interfaces.cli.main import app
from studio.service import Studio, parse_spec
from studio.store import metadata

home = Path(sys.argv[1])
studio = Studio(Settings(home=home, offline=True, named_only=True, _env_file=None))
http = TestClient(create(studio.settings, studio), base_url="http://127.0.0.1")


def recipes(spec):
    return studio._resolver.plan(spec, "me").recipes


def drawn(**fields):
    return recipes(GenerateSpec(prompt="1girl", negative="", seed=1, **fields))[0]


# key, infotext, verb, grid, HTTP
assert drawn(hue=0).key == drawn().key != drawn(hue=3).key
assert "Hue: 3" in metadata.parameters(drawn(hue=3))
assert metadata.request_of(drawn(hue=3)).hue == 3
assert "--hue" in CliRunner().invoke(app, ["generate", "--help"], env={"COLUMNS": "200"}).output
grid = parse_spec({"kind": "grid", "base": {"prompt": "1girl"}, "x": {"name": "hue", "values": ["0", "3"]}})
assert AXES["hue"].about.axis == "0, 3" and [recipe.hue for recipe in recipes(grid)] == [0, 3]
schemas = http.get("/openapi.json").json()["components"]["schemas"]
assert schemas["GenerateSpec"]["properties"]["hue"]["title"] == "Hue"

# A1111's API: in the request, among the options, and brought into the field's bounds
assert "hue" in schemas["Txt2ImgHires"]["properties"] and "hue" in schemas["Img2Img"]["properties"]
def asked(chosen={}, **body):
    return sdapi._spec(sdapi.Txt2Img(prompt="1girl", **body), chosen, studio).hue
assert [asked(hue=3), asked(hue=99), asked({"HUE_of_all": 2})] == [3, 9, 2]
assert asked(override_settings={"HUE_of_all": 4}) == 4
assert [asked(), asked({"HUE_of_all": "many"}), asked({"HUE_of_all": 5}, hue=6)] == [0, 0, 6]
assert http.post("/sdapi/v1/options", json={"HUE_of_all": 77}).json()["HUE_of_all"] == 9
assert http.get("/sdapi/v1/options").json()["HUE_of_all"] == 9

# a workflow of ComfyUI
nodes = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors", "tint": -4}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "1girl", "clip": ["1", 1]}},
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 4, "cfg": 2, "sampler_name": "euler", "denoise": 1,
                                               "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0]}},
}
from PIL import PngImagePlugin
note = PngImagePlugin.PngInfo()
note.add_text("prompt", json.dumps(nodes))
Image.new("RGB", (64, 64)).save(home / "comfy.png", pnginfo=note)
assert metadata.read((home / "comfy.png").read_bytes()).spec.hue == 4

# it goes with its model: not to another one, and to a part of its picture that is drawn anew
text = "1girl\\nSteps: 4, Sampler: Euler, CFG scale: 2, Seed: 1, Size: 64x64, Hue: 3, Model: elsewhere"
read = studio.read_recipe(text.encode())
assert read.spec.hue == 0 and any("Hue of 3 belongs to its own model" in note for note in read.notes)
kept = studio._pictures.save(Image.new("RGB", (256, 256)), drawn(hue=3), "me")
mask = Image.new("L", (256, 256))
mask.paste(255, (0, 0, 99, 99))
mask.save(home / "mask.png")
mask = studio.upload((home / "mask.png").read_bytes(), "me", "mask")
retouched = InpaintSpec(base=GenerateSpec(text="red hair"), image=kept.id, mask=MaskSpec(image=mask.id))
assert recipes(retouched)[0].hue == 3
studio.close()
"""


def test_a_new_parameter_is_one_field(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TOY, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
