"""One list of kinds of training runs: a kind that stands in it is everywhere."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from studio.core.specs import RUN_KINDS

TOY = """
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

from studio.core.specs import runs, training


class ToySpec(training.LoraSpec):
    kind: Literal["toy"] = "toy"


# As if it stood in the list: what is derived from that in the same module is made again
runs.RUN_KINDS["toy"] = replace(
    runs.RUN_KINDS["lora"], spec=ToySpec, title="Toy", trainer="studio.training.toy.train", verb="train-toy",
    help="Teach a toy.", estimate="studio.training.toy.estimate", too_large="Too large a toy.",
)
source = Path(runs.__file__).read_text()
exec(compile(source[source.index("if TYPE_CHECKING:"):], runs.__file__, "exec"), vars(runs))
from studio.core import specs

specs.AnyRun, specs.RunKindName = runs.AnyRun, runs.RunKindName

from fastapi.testclient import TestClient
from typer.testing import CliRunner

from studio.core.settings import Settings
from studio.core.views import RunView
from studio.interfaces.api.app import create
from studio.interfaces.cli.main import app
from studio.interfaces.web import system
from studio.runs.rundir import TRAINERS, RunDir
from studio.training.runtime.session import explain

spec = runs.parse_run({"kind": "toy", "data": "pictures"})
assert type(spec) is ToySpec
assert TRAINERS["toy"] == "studio.training.toy.train"
RunView(id="a", kind="toy", name="n", model="m", state="done")
run = RunDir(Path(sys.argv[1]))
run.write_spec(spec)
assert type(run.spec()) is ToySpec
assert explain(MemoryError(), run) == "Too large a toy."
assert "Teach a toy." in CliRunner().invoke(app, ["train-toy", "--help"]).output
schema = json.dumps(create(Settings(home=Path(sys.argv[1]), _env_file=None)).openapi())
assert "ToySpec" in schema and '"toy"' in schema
assert system.RUN_KINDS["toy"].title == "Toy"
"""


def test_a_new_kind_of_run_is_one_entry(tmp_path: object) -> None:
    done = subprocess.run([sys.executable, "-c", TOY, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", RUN_KINDS)
def test_every_kind_has_its_modules_and_its_name(name: str) -> None:
    kind = RUN_KINDS[name]
    assert kind.spec.model_fields["kind"].default == name
    assert importlib.util.find_spec(kind.trainer) is not None
    assert not kind.estimate or importlib.util.find_spec(kind.estimate) is not None
