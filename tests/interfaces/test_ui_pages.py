"""The pages of this room in `AppTest`: what they show, what they send to the service, what they do with bad news."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest
from support.browser import REPOSITORY
from support.pages import MAIN, STEPS, app, draw, finish, prompt_of, sentences

from studio.core.errors import BadInput
from studio.core.specs import EMOTIONS, ControlSpec, GenerateSpec, LoraRef
from studio.core.views import JobView
from studio.engine import devices
from studio.features.registry import FEATURES
from studio.features.sheets.spec import SheetSpec
from studio.features.sketch.spec import SketchSpec
from studio.interfaces.web import frame, text, trash, widgets
from studio.interfaces.web.resources import studio


def test_a_first_visit_says_what_to_do(page_home: Path) -> None:
    at = app()
    assert at.title[0].value == "Generate"
    assert "press Draw" in sentences(at)
    at.button(key="gen_idea_Idol").click().run()
    assert "pink hair" in at.text_input(key="gen_text").value
    assert "pink hair" in prompt_of(at)


def test_the_prompt_follows_the_choices_before_anything_is_drawn(page_home: Path) -> None:
    at = app()
    happy = prompt_of(at)
    at.button_group(key="gen_emotion").set_value("sad").run()
    at.text_input(key="gen_text").set_value("green hair").run()
    assert "sad" in prompt_of(at)
    assert "green hair" in prompt_of(at)
    assert prompt_of(at) != happy
    assert not studio().jobs("me")


def test_drawing_ends_in_a_picture_and_again_in_the_same_one(page_home: Path) -> None:
    at = app()
    at.number_input(key="gen_steps").set_value(STEPS)
    at.number_input(key="gen_seed").set_value(7)
    at.text_input(key="gen_text").set_value("red hair")
    at.button(key="gen_draw").click().run()
    assert not at.exception
    first = finish(at)
    assert first.state == "done"
    recipe = studio().picture(first.pictures[0], "me").recipe
    assert recipe
    assert (recipe.seed, recipe.steps) == (7, STEPS)
    assert "red hair" in recipe.prompt
    assert text.summary(recipe) in [part.label for part in at.expander]
    at.button(key="gen_draw").click().run()
    second = finish(at)
    assert second.pictures == first.pictures
    assert "already" in sentences(at)
    assert at.query_params["job"] == [second.id] or at.query_params["job"] == second.id


def test_what_is_edited_is_what_is_drawn(page_home: Path) -> None:
    at = app(gen_steps=STEPS)
    layer = next(field for field in at.text_input if field.key and field.key.startswith("gen_layer_emotion"))
    layer.set_value("furious, shouting").run()
    at.button(key="gen_draw").click().run()
    job = finish(at)
    recipe = studio().picture(job.pictures[0], "me").recipe
    assert recipe
    assert "furious, shouting" in recipe.prompt
    assert "joyful" not in recipe.prompt
    at.button_group(key="gen_emotion").set_value("calm").run()  # another emotion: another layer, the edit is over
    assert "furious" not in prompt_of(at)


def test_an_unsure_prompt_asks_first(page_home: Path) -> None:
    at = app(gen_steps=STEPS)
    at.text_input(key="gen_text").set_value("crying, frown, ((closed mouth, open mouth").run()
    at.button(key="gen_draw").click().run()
    assert "only" in sentences(at)
    assert not studio().jobs("me")
    at.button(key="gen_doubt_fixed").click().run()
    assert "Fixed template" in prompt_of(at)
    at.button(key="gen_draw").click().run()
    assert finish(at).state == "done"
    at.text_input(key="gen_text").set_value("red hair").run()  # nothing to doubt any more
    assert "Fixed template" not in prompt_of(at)


def test_spelling_is_suggested_and_never_changed_silently(page_home: Path) -> None:
    at = app()
    at.text_input(key="gen_text").set_value("red hiar, blue eyes").run()
    assert at.text_input(key="gen_text").value == "red hiar, blue eyes"
    at.button(key="gen_keep").click().run()
    assert not [button for button in at.button if button.key == "gen_accept"]
    at.text_input(key="gen_text").set_value("red hiar").run()
    at.button(key="gen_accept").click().run()
    assert at.text_input(key="gen_text").value == "red hair"


def test_a_picture_sent_here_brings_its_recipe_or_becomes_the_start(page_home: Path) -> None:
    picture = draw("me", emotion="angry", text="blue hair", seed=11)
    at = app(send={"page": "generate", "picture": picture, "as": "recipe"})
    assert at.number_input(key="gen_seed").value == 11
    assert "blue hair" in prompt_of(at)  # written from the fields, as it was then
    at.button(key="gen_draw").click().run()
    assert finish(at).pictures == (picture,)
    at = app(send={"page": "generate", "picture": picture, "as": "source"}, gen_steps=STEPS)
    at.slider(key="gen_strength").set_value(0.5).run()
    at.button(key="gen_draw").click().run()
    recipe = studio().picture(finish(at).pictures[0], "me").recipe
    assert recipe
    assert (recipe.source, recipe.strength) == (picture, 0.5)


def test_a_dropped_file_gives_its_recipe_back(page_home: Path) -> None:
    data = studio().picture_bytes(draw("me", seed=5, text="pink hair"), "me")
    at = app()
    at.file_uploader(key="gen_file").set_value(("picture.png", data, "image/png")).run()
    at.button(key="gen_file_load").click().run()
    assert at.number_input(key="gen_seed").value == 5
    plain = io.BytesIO()
    Image.new("RGB", (8, 8)).save(plain, "PNG")
    at.file_uploader(key="gen_file").set_value(("plain.png", plain.getvalue(), "image/png")).run()
    assert "carries no recipe" in sentences(at)
    assert "gen_file_load" not in [button.key for button in at.button]
    at.file_uploader(key="gen_file").set_value(("broken.png", b"no picture", "image/png")).run()
    assert "can't be read as a picture" in at.error[0].value
    assert not [button for button in at.button if button.key in ("gen_file_load", "gen_file_use")]
    assert at.button(key="gen_draw")
    assert "pink hair" in prompt_of(at)  # the rest of the page is there
    cut = data[: len(data) // 2]
    at.file_uploader(key="gen_file").set_value(("cut.png", cut, "image/png")).run()
    at.button(key="gen_file_use").click().run()
    assert "damaged" in at.error[0].value
    assert "pink hair" in prompt_of(at)


def test_a_sheet_shows_the_whole_and_its_tiles(page_home: Path) -> None:
    base = GenerateSpec(model=studio().settings.model, steps=STEPS, seed=3)
    job = studio().submit(SheetSpec(base=base), "me")
    assert studio().wait(job.id, "me", 60).state == "done"
    at = app(**{"job:generate": job.id})
    assert "The single pictures" in [part.label for part in at.expander]
    assert len([button for button in at.button if button.key and "_tiles_" in button.key]) == len(EMOTIONS)


def test_a_failed_job_says_why_and_a_missing_one_is_forgotten(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise BadInput("The LoRA doesn't fit this model.")

    with monkeypatch.context() as patch:
        patch.setitem(studio()._jobs._kinds, "generate", fails)
        job = studio().submit(GenerateSpec(model=studio().settings.model, steps=STEPS, seed=40), "me")
        assert studio().wait(job.id, "me", 60).state == "failed"
    at = app(**{"job:generate": job.id})
    assert [part.value.replace("\\", "") for part in at.error] == ["The LoRA doesn't fit this model."]
    assert "job" not in at.query_params  # a reload starts afresh
    at.button(key=f"again_{job.id}").click().run()
    assert finish(at).state == "done"
    assert not at.error
    at = app(**{"job:generate": "0123456789abcdef"})
    assert "not here any more" in sentences(at)
    at.run()
    assert "not here any more" not in sentences(at)


def test_bad_news_is_a_sentence(page_home: Path, tmp_path: Path) -> None:
    at = app(gen_model=str(tmp_path / "nowhere"))
    at.button(key="gen_draw").click().run()
    assert not at.exception
    assert len(at.error) == 1
    assert "nowhere" in at.error[0].value


def test_the_gallery_finds_deletes_and_brings_back(page_home: Path) -> None:
    at = app("gallery")
    assert "Nothing here yet" in sentences(at)
    red, blue = draw("me", text="red hair", seed=1), draw("me", text="blue hair, green eyes, white hoodie", seed=2)
    draw("somebody else", text="red hair", seed=3)
    at.run()
    assert {f"open_{red}", f"open_{blue}"} == {b.key for b in at.button if b.key and b.key.startswith("open_")}
    at.text_input(key="gallery_query").set_value("red hair").run()
    assert [b.key for b in at.button if b.key and b.key.startswith("open_")] == [f"open_{red}"]
    at.text_input(key="gallery_query").set_value("nothing like it").run()
    assert "Nothing found" in sentences(at)
    at.text_input(key="gallery_query").set_value("").run()
    at.toggle(key="gallery_select").set_value(True).run()
    at.checkbox(key=f"gallery_pick_{red}").check().run()
    at.button(key="gallery_delete_selected").click().run()
    assert "1 picture deleted" in sentences(at)
    assert [b.key for b in at.button if b.key and b.key.startswith("open_")] == [f"open_{blue}"]
    at.button(key="undo").click().run()
    assert len([b for b in at.button if b.key and b.key.startswith("open_")]) == 2
    assert "deleted" not in sentences(at)


def test_the_offer_to_undo_goes_away(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [draw("me", seed=seed) for seed in (7, 8, 9)]
    at = app("gallery")

    def delete(picture: str) -> None:
        at.toggle(key="gallery_select").set_value(True).run()
        at.checkbox(key=f"gallery_pick_{picture}").check().run()
        at.button(key="gallery_delete_selected").click().run()
        assert "1 picture deleted" in sentences(at)

    delete(pictures[0])
    at.text_input(key="gallery_query").set_value("seed 8").run()  # what is done next
    assert "deleted" not in sentences(at)
    at.text_input(key="gallery_query").set_value("").run()
    delete(pictures[1])
    now = trash.time.time() + trash.OFFER_SECONDS + 1
    monkeypatch.setattr(trash.time, "time", lambda: now)  # or after some time
    at.run()
    assert "deleted" not in sentences(at)
    assert studio().undo_delete("me") == 1  # which only ends the offer


def test_the_gallery_s_own_example_finds_a_seed(page_home: Path) -> None:
    one, other = draw("me", text="red hair", seed=918273645), draw("me", text="red hair", seed=5)
    assert "seed 42" in app("gallery").text_input(key="gallery_query").placeholder
    for query in ("seed 918273645", "red hair, Seed: 918273645", "seed=918273645"):
        assert [picture.id for picture in studio().gallery("me", query)] == [one], query
    assert {picture.id for picture in studio().gallery("me", "red")} == {one, other}


def test_a_lost_file_hides_no_other_picture_and_can_be_deleted(page_home: Path) -> None:
    lost, other = draw("me", text="lost", seed=11), draw("me", text="lost too", seed=12)
    studio().picture(lost, "me").path.unlink()
    at = app("gallery")
    assert {f"open_{lost}", f"open_{other}"} <= {b.key for b in at.button}
    at.button(key=f"open_{lost}").click().run()
    assert "is gone from the disk" in at.error[0].value
    assert at.button(key=f"gallery_delete_{lost}").label == "Delete"


def test_favourites_are_kept(page_home: Path) -> None:
    picture = draw("me", seed=4)
    at = app("gallery")
    at.button(key=f"open_{picture}").click().run()
    at.button(key=f"favourite_large_{picture}").click().run()
    assert studio().picture(picture, "me").favourite


def test_a_download_is_ready_when_the_session_is_not_there(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = studio().picture(draw("me", seed=6), "me")
    kept = {}
    monkeypatch.setattr(widgets, "owner", lambda: "me")
    monkeypatch.setattr(widgets.st, "download_button", lambda label, **options: kept.update(options))
    widgets.download(picture, "x")
    monkeypatch.setattr(widgets, "owner", lambda: "a new session")  # what `owner` says outside of a script run
    assert kept["data"]() == studio().picture_bytes(picture.id, "me")
    assert kept["file_name"].endswith(".png")


def test_the_system_page_says_what_runs_where(page_home: Path) -> None:
    at = app("system")
    said = sentences(at)
    assert "at the latest for the first picture" in said
    assert "expects to draw on the CPU: in full precision" in said
    assert str(page_home) in said
    draw("me", seed=9)
    at.run()
    assert "at the latest for the first picture" not in sentences(at)
    assert at.metric[0].value == "CPU"


def test_the_system_page_names_the_card_and_its_memory(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine:
        def status(self) -> dict[str, Any]:
            return {"loaded": True, "device": "cuda:0", "dtype": "float16", "model": "embedded", "choices": [],
                    "device_name": "A Fine Card", "device_memory_used": 2 * 10**9,
                    "device_memory_total": 8 * 10**9}  # fmt: skip

    monkeypatch.setattr(studio()._jobs, "_engine", Engine())
    tiles = {tile.label: (tile.value, tile.delta) for tile in app("system").metric}
    assert tiles["Device"] == ("CUDA:0", "A Fine Card")
    assert tiles["Memory of the device"] == ("2.0 GB", "of 8.0 GB")
    monkeypatch.setattr(studio()._jobs, "_engine", None)
    monkeypatch.setattr(devices, "expected", lambda settings: "cuda")
    at = app("system")
    assert "the CUDA card: in the precision that suits it" in sentences(at)
    assert at.metric[0].delta == ""  # and not the processor's name


def test_the_system_page_says_why_a_card_is_not_used(page_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = devices.Card("NVIDIA GeForce RTX 3060", "580.65", (8, 6), 12 * 2**30)
    monkeypatch.setattr(devices, "cards", lambda: (card,))
    monkeypatch.setattr(devices, "wheel", lambda: devices.Wheel("2.13.0+cpu", ""))
    at = app("system")
    assert any("built without CUDA" in warning.value for warning in at.warning)
    assert any("--index-url https://download.pytorch.org/whl/cu130" in code.value for code in at.code)


def test_a_page_is_drawn_without_torch(page_home: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom streamlit.testing.v1 import AppTest\n"
        f"at = AppTest.from_file({MAIN!r}, default_timeout=60).run()\nassert not at.exception and at.title\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules, 'torch was loaded for a page'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (59, "59 s"), (200, "3 min"), (5400, "1 h 30 min"), (7500, "2 h 5 min")]
)
def test_durations_read_like_speech(seconds: float, said: str) -> None:
    assert text.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "2 kB"), (44_100_000, "44.1 MB")]
)
def test_sizes_read_like_a_file_manager(count: int, said: str) -> None:
    assert text.size(count) == said


def test_people_cannot_write_markdown_into_the_page() -> None:
    for nasty in ("[x](http://e.example)", "![](x)", ":red[x]", "$x$", "<b>", "`x`", ":material/home:"):
        assert not set(text.escape(nasty).replace("\\" + nasty[0], "")) - set("\\" + nasty)
        assert text.escape(nasty) != nasty


def test_progress_says_place_step_and_time() -> None:
    job = JobView(id="1", kind="generate", title="x", state="queued", position=2, created=0)
    assert widgets.progress_text(job) == "Waiting: 2 jobs ahead"
    job = job.model_copy(update={"state": "running", "position": 0, "done": 5, "total": 20, "seconds_left": 3.2})
    assert widgets.progress_text(job) == "25% · about 3 s left"


def test_a_stress_test_draws_the_prompt_clean_and_misspelt_from_one_seed(page_home: Path) -> None:
    at = app(gen_steps=STEPS, gen_seed=21)
    at.text_input(key="gen_text").set_value("green hair, red eyes").run()
    at.button(key="gen_stress_draw").click().run()
    assert not at.exception
    job = finish(at)
    recipes = [studio().picture(picture, "me").recipe for picture in job.pictures]
    assert [recipe.seed for recipe in recipes if recipe] == [21] * 4
    prompts = [recipe.prompt for recipe in recipes if recipe]
    assert "green hair, red eyes" in prompts[0]
    assert len(set(prompts)) == 4
    assert {"As it is", "Typing errors", "Look-alike letters", "Sound-alikes"} <= {part.value for part in at.caption}


def test_an_experiment_s_result_is_said_with_its_uncertainty(page_home: Path) -> None:
    from studio.interfaces.web import lab

    side = {"right": 15, "n": 20, "low": 0.53, "high": 0.89}
    job = JobView(
        id="1", kind="experiment", title="A/B", state="done", created=0,
        result={"sentence": "It could be chance.", "names": ["Clean", "Attacked"], "pairs": [["gone", "gone too"]],
                "comparisons": [{"factor": "emotion", "left": side, "right": side, "p": 1.0}]},
    )  # fmt: skip
    at = AppTest.from_function(_show_report, default_timeout=60)
    at.session_state["job"] = job
    at.session_state["owner"] = "me"
    at.run()
    assert not at.exception
    assert "It could be chance\\." in at.markdown[0].value
    assert lab.FACTORS["emotion"] in [part.value for part in at.caption]


def _show_report() -> None:
    import streamlit as st

    from studio.interfaces.web import lab

    lab.report(st.session_state["job"])


def test_a_recipe_with_a_drawing_says_that_the_drawing_is_not_part_of_the_form(page_home: Path) -> None:
    picture = sketched("me")
    at = app(send={"page": "generate", "picture": picture, "as": "recipe"})
    assert "drawing that it followed isn't part of this form" in sentences(at)
    assert "Sketch" in sentences(at)
    data = studio().picture_bytes(picture, "me")
    at = app()
    at.file_uploader(key="gen_file").set_value(("picture.png", data, "image/png")).run()
    at.button(key="gen_file_load").click().run()
    assert "drawing that it followed isn't part of this form" in sentences(at)


def test_a_start_that_is_gone_is_said(page_home: Path) -> None:
    start = draw("me", seed=30)
    picture = draw("me", seed=31, source=start, strength=0.5)
    studio().delete([start], "me")
    at = app(send={"page": "generate", "picture": picture, "as": "recipe"})
    assert "started from isn't here" in sentences(at)


def test_a_lora_that_is_not_here_is_named(page_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "old_ink.safetensors"
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{layer}.lora_down.weight": torch.ones(2, 32), f"{layer}.lora_up.weight": torch.ones(32, 2)}, path)
    picture = draw("me", seed=32, loras=(LoraRef(path=str(path), weight=0.7),))
    at = app(send={"page": "generate", "picture": picture, "as": "recipe"})
    at.button(key="gen_draw").click().run()  # not in the list, but where it was: used as it is
    assert finish(at).pictures == (picture,)
    data = studio().picture_bytes(picture, "me")
    path.unlink()
    at.run()
    assert "Not here, so not used: old_ink.safetensors" in sentences(at)
    at.run()
    assert "Not here, so not used: old_ink.safetensors" in sentences(at)  # until something is done about it
    at = app(send={"page": "generate", "picture": picture, "as": "recipe"})
    assert "LoRA 'old_ink.safetensors' isn't here" in sentences(at)
    at = app()
    at.file_uploader(key="gen_file").set_value(("picture.png", data, "image/png")).run()
    at.button(key="gen_file_load").click().run()
    assert "LoRA 'old_ink.safetensors' isn't here" in sentences(at)


def sketched(owner: str) -> str:
    image, stream = Image.new("RGB", (128, 128), "white"), io.BytesIO()
    ImageDraw.Draw(image).ellipse((25, 25, 100, 110), outline="black", width=3)
    image.save(stream, "PNG")
    control = ControlSpec(image=studio().upload(stream.getvalue(), owner).id)
    base = GenerateSpec(model=studio().settings.model, steps=STEPS, seed=8)
    job = studio().wait(studio().submit(SketchSpec(base=base, control=control), owner).id, owner, 60)
    assert job.state == "done", job.error
    return next(id for id in job.pictures if id != job.result["control_image"])


def test_a_running_job_of_every_kind_has_a_page() -> None:
    assert set(frame.HOME_OF) == set(FEATURES)
    assert all((REPOSITORY / "pages" / f"{page}.py").exists() for page in frame.HOME_OF.values())
