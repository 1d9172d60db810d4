"""First captions: what the judge, taggers and captioners say of a picture, what is refused, and the job over a set."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support import captioner_models
from support.training_sets import picture, write_set
from support.watching import watch

from studio.core.errors import BadInput, NotFound, Offline
from studio.core.settings import ASSETS, EMBEDDED_MODEL, Settings
from studio.core.specs import EMOTIONS
from studio.core.views import JobView
from studio.engine import captioning, judging
from studio.engine.models import captioners
from studio.features.caption.spec import CaptionSpec
from studio.runs import dataset
from studio.service import Studio

WAIT = 180  # seconds: a cold import of torch on a busy machine
EXAMPLES = ASSETS / "examples" / "style_1"
LABELS = ["long_hair", "hat_(red)", "^_^", "rating:general", "solo"]
BIAS = [1.0, 3.0, 0.0, 5.0, -2.0]  # as probabilities 0.73, 0.95, 0.5, 0.99, 0.12
SAID = "hat (red), long hair, ^_^"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return Settings(home=tmp_path / "home", offline=True, device="cpu", _env_file=None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tagger`, `blip` and `pair`."""
    place = tmp_path_factory.mktemp("captioners")
    captioner_models.tagger(place / "tagger", LABELS, BIAS, "multi_label_classification")
    captioner_models.blip(place / "blip")
    captioner_models.encoder_decoder(place / "pair")
    return place


def load(place: Path | str, settings: Settings, threshold: float | None = None) -> captioning.Captioner:
    return captioning.load(captioners.find(str(place), settings), settings, threshold)


# --- the judge -------------------------------------------------------------------------------------------------------


def test_every_tag_of_the_judge_is_one_that_the_model_was_trained_with() -> None:
    values = json.loads((EMBEDDED_MODEL / "judge" / "config.json").read_text())["values"]
    trained = set(json.loads((EMBEDDED_MODEL / "studio.json").read_text())["tags"])
    given = {judging.TAGS[name](word) for name in judging.TAGS for word in values[name] if word != judging.UNSEEN}
    assert given <= trained
    assert len(given) > 40


def test_the_judge_names_what_it_is_sure_of_and_never_the_style_by_itself(settings: Settings) -> None:
    info = captioners.find("judge", settings)
    files = sorted(EXAMPLES.glob("*.jpg"))
    pictures = [Image.open(file) for file in files]
    captions = captioning.load(info, settings)(pictures)
    right = named = 0
    for file, caption in zip(files, captions, strict=True):
        said = set(dataset.split_tags(caption))
        assert not any(tag.endswith(" style") for tag in said)
        true = set(dataset.split_tags(file.with_suffix(".txt").read_text()))
        named += bool(said & set(EMOTIONS))
        right += bool(said & true & set(EMOTIONS))
    assert named >= len(files) / 3, "the judge is sure of hardly anything"
    assert right >= 0.8 * named, "a caption belongs to another picture, or the judge is unsure of what it names"
    everything = captioning.load(info, settings, threshold=0, style=True)(pictures[:3])
    assert all(" style" in caption for caption in everything)
    for least, most in zip(captions, everything, strict=False):
        assert set(dataset.split_tags(least)) < set(dataset.split_tags(most))


# --- taggers and captioners ------------------------------------------------------------------------------------------


def test_a_tagger_gives_all_that_is_likely_the_likeliest_first(models: Path, settings: Settings) -> None:
    tagger = load(models / "tagger", settings)
    pictures = [picture(1, (90, 40)), Image.new("L", (7, 300)).convert("RGB")]
    assert tagger(pictures) == [SAID, SAID]
    assert load(models / "tagger", settings, threshold=0.9)(pictures[:1]) == ["hat (red)"]
    assert load(models / "tagger", settings, threshold=0.99)(pictures[:1]) == [""]
    assert type(tagger.processor).__name__.endswith("Pil"), "torchvision must not be needed"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("problem_type", "extra", "said"),
    [
        ("single_label_classification", 0, "a, b"),
        (None, 0, "a, b"),  # few labels: one of them is meant
        (None, captioning.MANY, "a, b, c"),
        ("single_label_classification", captioning.MANY, "a, b"),
    ],
)
def test_how_many_labels_hold_is_read_from_the_config(
    settings: Settings, tmp_path: Path, problem_type: str | None, extra: int, said: str
) -> None:
    labels = ["ab_c", "cd", *(f"tag_{number}" for number in range(extra))]
    bias = [9.0, 8.5, *([-9.0] * extra)]  # one of them with 0.62 and 0.38, each by itself with 0.999
    folder = captioner_models.tagger(tmp_path / "x", labels, bias, problem_type)
    expected = {"a, b": "ab c", "a, b, c": "ab c, cd"}[said]
    assert load(folder, settings)([picture(1)]) == [expected]


@pytest.mark.parametrize(
    ("label", "tag"),
    [
        ("long_hair", "long hair"), ("watercolor_(medium)", "watercolor (medium)"), ("^_^", "^_^"), ("o_o", "o_o"),
        ("(o)_(o)", "(o)_(o)"), ("rating:safe", ""), ("tench, Tinca tinca", "tench"), ("1girl", "1girl"),
    ],
)  # fmt: skip
def test_a_label_as_a_tag(label: str, tag: str) -> None:
    assert captioning.tag_of(label) == tag


@pytest.mark.parametrize("name", ["blip", "pair"])
def test_a_captioner_writes_a_sentence_the_same_every_time(models: Path, settings: Settings, name: str) -> None:
    writer = load(models / name, settings)
    pictures = [picture(1, (50, 90)), picture(2)]
    together = writer(pictures)
    assert [writer([one])[0] for one in pictures] == together
    words = " ".join(together).split()
    assert words
    assert set(words) <= set(captioner_models.WORDS)
    assert not any(word.startswith("[") for word in words)


def test_no_code_of_a_model_is_ever_run(models: Path, settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    shutil.copytree(models / "tagger", folder)
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"open({str(marker)!r}, 'w')\nfrom transformers import *\nclass A(ViTForImageClassification): ...\n"
        "class B(ViTImageProcessorPil): ...\nclass C(ViTConfig): ...\n"
    )
    for name, auto in (("config.json", {"AutoModelForImageClassification": "evil.A", "AutoConfig": "evil.C"}),
                       ("preprocessor_config.json", {"AutoImageProcessor": "evil.B"})):  # fmt: skip
        config = json.loads((folder / name).read_text()) | {"auto_map": auto}
        config |= {"attn_implementation": "somebody/kernel", "_attn_implementation": "somebody/kernel"}
        (folder / name).write_text(json.dumps(config))
    assert load(folder, settings)([picture(1)]) == [SAID]  # transformers' own classes do
    config["image_processor_type"] = "B"  # a class of its own, which only its code has
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="evil can't caption pictures"):
        load(folder, settings)
    assert not marker.exists()


def edit(folder: Path, name: str, **changes: Any) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


def test_what_cannot_caption_is_one_sentence(models: Path, settings: Settings, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(models / "tagger", tmp_path / name))

    no_config, other, nameless, short, unknown, raw = map(broken, ("a", "b", "c", "d", "e", "f"))
    (no_config / "config.json").unlink()
    edit(other, "config.json", architectures=["LlamaForCausalLM"])
    edit(nameless, "config.json", id2label={str(k): f"LABEL_{k}" for k in range(5)})
    weights = load_file(short / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "classifier" not in k}, short / "model.safetensors", {"format": "pt"}
    )
    edit(unknown, "config.json", architectures=["MadeUpForImageClassification"])
    (raw / "preprocessor_config.json").unlink()
    pickled, renamed = broken("g"), broken("h")
    (pickled / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, pickled / "pytorch_model.bin")
    torch.save({"a": torch.zeros(1)}, renamed / "model.safetensors")
    for place, sentence in {
        no_config: "has no config.json", other: "b can't caption pictures; choose an image classifier",
        nameless: "no names for its labels", short: "2 layers are missing", unknown: "e can't caption pictures",
        raw: "f can't caption pictures", pickled: "are a pickle", renamed: "pickle under another name",
        raw / "config.json": "is a file; give the folder",
    }.items():  # fmt: skip
        with pytest.raises(BadInput, match=sentence) as caught:
            load(place, settings)
        assert "\n" not in str(caught.value)


def test_where_captioners_are_found(models: Path, settings: Settings, tmp_path: Path) -> None:
    for wrong in ("", "nothing", "/dead/path", "./gone", "a/b/c", "x" * 5000, "~nobody/x"):
        with pytest.raises(NotFound, match="no captioner"):
            captioners.find(wrong, settings)
    with pytest.raises(Offline, match=r"somebody/tagger is not on this machine and STUDIO_OFFLINE is on"):
        captioners.find("somebody/tagger", settings)
    assert [info.reference for info in captioners.catalogue(settings)] == ["judge"]
    snapshot = tmp_path / "hub" / "models--somebody--tagger" / "snapshots" / "abc"
    shutil.copytree(models / "tagger", snapshot)
    shutil.copytree(models / "blip", settings.models_dir / "captioners" / "mine")
    found = {info.title: info for info in captioners.catalogue(settings)}
    assert [(info.title, info.kind) for info in found.values()] == [
        ("The embedded model's judge", "judge"), ("mine", "writer"), ("somebody/tagger", "tagger"),
    ]  # fmt: skip
    assert captioners.find("somebody/tagger", settings).path == snapshot
    assert captioners.find("mine", settings) == found["mine"]
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002.safetensors"}}')
    with pytest.raises(Offline):  # a download that was interrupted between two shards
        captioners.find("somebody/tagger", settings)


# --- the job ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def studio(settings: Settings) -> Iterator[Studio]:
    studio = Studio(settings)
    yield studio
    studio.close()


def captioned(studio: Studio, **fields: Any) -> JobView:
    view = studio.submit(CaptionSpec(**fields), "me")
    return studio.wait(view.id, "me", WAIT)


def written(folder: Path) -> dict[str, str]:
    return {file.stem: file.read_text().strip() for file in sorted((folder / "style_1").glob("*.txt"))}


def uncaptioned(folder: Path, count: int) -> Path:
    write_set(folder, count)
    for file in (folder / "style_1").glob("*.txt"):
        file.unlink()
    return folder


def test_pictures_without_a_caption_get_one_and_the_others_keep_theirs(
    studio: Studio, models: Path, tmp_path: Path
) -> None:
    folder = write_set(tmp_path / "set", 4)
    before = written(folder)
    (folder / "style_1" / "1.txt").unlink()
    (folder / "style_1" / "2.txt").write_text(" \n")
    (folder / "style_1" / "broken.png").write_bytes(b"\x89PNG broken")
    view = captioned(studio, data=str(folder), captioner=str(models / "tagger"))
    assert view.state == "done", view.error
    # the folder's trigger word goes first where another word could be taken for it
    new = f"style_1, {SAID}"
    assert written(folder) == before | {"1": new, "2": new}
    assert view.result["captions"] == {"style_1/1.png": new, "style_1/2.png": new}
    assert (view.result["folder"], view.result["kept"]) == (str(folder), 2)
    assert view.result["without"] == ["style_1/broken.png"]
    assert "style_1/broken.png is not a picture that can be read: it is left out." in view.notes
    assert dataset.check(folder, 64).triggers == {"style_1": 4}
    again = captioned(studio, data=str(folder), captioner=str(models / "tagger"))
    assert (again.state, again.result["captions"], again.result["kept"]) == ("done", {}, 4)
    assert any("Every picture has a caption already" in note for note in again.notes)
    whole = captioned(studio, data=str(folder), captioner=str(models / "tagger"), every=True, threshold=0.9)
    assert set(written(folder).values()) == {"style_1, hat (red)"}
    assert whole.result["kept"] == 0
    unsure = captioned(studio, data=str(folder), captioner=str(models / "tagger"), every=True, threshold=0.99)
    assert len(unsure.result["without"]) == 5
    assert "In 4 of 4 pictures nothing was sure enough to be named." in unsure.notes
    assert set(written(folder).values()) == {"style_1, hat (red)"}, "a caption is replaced by one, never by nothing"


def test_captions_appear_as_they_are_made_and_a_cancel_keeps_them(studio: Studio, models: Path, tmp_path: Path) -> None:
    folder = uncaptioned(tmp_path / "set", 60)
    job = studio.submit(CaptionSpec(data=str(folder), captioner=str(models / "blip")), "me")
    counts = []
    for view in watch(studio, job.id):
        counts.append(len(view.result.get("captions", {})))
        assert 0 <= counts[-1] - view.done <= 1  # a caption is there before it is counted
        if counts[-1] >= 2 and view.active:
            studio.cancel(job.id, "me")
    assert view.state == "cancelled"
    assert len(set(counts)) > 1
    assert 2 <= len(view.result["captions"]) < 60
    assert {f"style_1/{name}.png": text for name, text in written(folder).items()} == view.result["captions"]
    rest = studio.wait(studio.again(job.id, "me").id, "me", WAIT)
    assert rest.state == "done", rest.error
    assert len(rest.result["captions"]) == 60 - len(view.result["captions"])


def test_wrong_sets_are_one_sentence(studio: Studio, models: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no data set at"):
        studio.submit(CaptionSpec(data=str(tmp_path / "nothing")), "me")
    with pytest.raises(NotFound, match="no captioner"):
        studio.submit(CaptionSpec(data=str(tmp_path), captioner="/nowhere"), "me")
    (tmp_path / "empty").mkdir()
    empty = captioned(studio, data=str(tmp_path / "empty"))
    assert (empty.state, empty.bad_input) == ("failed", True)
    assert empty.error == "There is no picture to train on. The folder is empty."
    folder = uncaptioned(tmp_path / "set", 40)
    job = studio.submit(CaptionSpec(data=str(folder), captioner=str(models / "blip")), "me")
    for view in watch(studio, job.id):
        if view.result.get("captions"):
            shutil.rmtree(folder, ignore_errors=True)
    assert view.state == "failed"
    assert view.error
    assert "\n" not in view.error
    assert "inside the studio" not in view.error


def test_a_set_in_an_archive_is_captioned_where_training_finds_it(studio: Studio, models: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "mine"), "zip", uncaptioned(tmp_path / "set", 2))
    view = captioned(studio, data=archive, captioner=str(models / "tagger"))
    assert view.state == "done", view.error
    assert [entry.captioned for entry in studio.datasets.check(archive, resolution=64).entries] == [True, True]
