"""What a morph and a set of sprites leave in the store: found in the gallery, deleted as one, brought back as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkpoints import tiny_sd

from studio.core.settings import Settings
from studio.core.specs import GenerateSpec
from studio.features.animate.spec import SpritesSpec
from studio.features.morph.spec import MorphSpec
from studio.service import Studio
from studio.store.metadata import FRAME

BASE = GenerateSpec(model="tiny", steps=2, seed=3, text="red hair")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("parts")
    tiny_sd(home / "models" / "tiny")
    made = Studio(Settings(home=home, device="cpu", offline=True, preview_every=0))
    yield made
    made.close()


def files(studio: Studio) -> set[Path]:
    return {path for path in studio.settings.images_dir.rglob("*") if path.is_file()}


def test_a_morph_that_was_evened_out_leaves_nothing_behind(studio: Studio) -> None:
    before = files(studio)
    job = studio.wait(studio.submit(MorphSpec(base=BASE, frames=4, retime=True, format="mp4"), "ann").id, "ann", 120)
    assert job.state == "done", job.error
    frame = job.result["frames"][1]
    assert studio.recipe_of(frame, "ann").notes == (FRAME,)
    theirs = studio.wait(studio.submit(MorphSpec(base=BASE, frames=4, retime=True), "bob").id, "bob", 120)
    assert theirs.state == "done", theirs.error
    assert studio.wait(studio.again(theirs.id, "bob").id, "bob", 120).state == "done"
    assert studio.picture(frame, "bob").kind == "frame"
    assert [picture.kind for picture in studio.gallery("bob")] == ["animation"]
    [shown] = studio.gallery("ann")
    for owner, id in (("ann", shown.id), ("bob", theirs.result["animation"])):
        assert studio.delete([id], owner) == 1
    assert studio.system().pictures == 0
    assert studio.undo_delete("ann") == 1
    assert studio.animation(shown.id, "ann", "zip")  # made of its frames
    studio.delete([shown.id], "ann")
    studio._pictures.purge(older_than=-1)
    assert files(studio) == before


def test_a_set_of_sprites_is_a_sheet_in_the_gallery(studio: Studio) -> None:
    before = files(studio)
    spec = SpritesSpec(base=BASE, emotions=("happy", "sad"))
    job = studio.wait(studio.submit(spec, "ann").id, "ann", 120)
    assert job.state == "done", job.error
    [sheet] = studio.gallery("ann")
    assert (sheet.kind, sheet.details["tiles"]) == ("sheet", job.result["frames"])
    again = studio.wait(studio.submit(spec, "ann").id, "ann", 120)
    assert [picture.id for picture in studio.gallery("ann")] == [sheet.id]
    assert again.result["sprites"] == job.result["sprites"]
    assert studio.delete([sheet.id], "ann") == 1
    studio._pictures.purge(older_than=-1)
    assert files(studio) == before
