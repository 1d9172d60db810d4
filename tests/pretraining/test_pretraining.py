"""The steps that make the embedded model, each on a few numbers that can be worked out by hand."""

import argparse
import functools
import json
import random
import sys

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from studio.pretraining import build, captions, latents
from studio.pretraining.latents import encode, fold
from studio.pretraining.state import load_state, optimizer_tensors, restore_optimizer, save_state
from studio.pretraining.text_tower import target
from studio.pretraining.tokenizer import POSITIONS
from studio.pretraining.tokenizer import build as build_tokenizer
from studio.pretraining.unet import FACE_WEIGHT, IRIS_WEIGHT, face_weights, mean_of, velocity

TAGS = ["1girl", "solo", "happy", "smile", "casual style", "blonde hair", "blue eyes", "striped shirt", "sky, clouds"]
LABELS = {"emotion": "happy", "style": "casual", "tags": TAGS}
PLACED = {"scale": 1.0, "dx": 0.0, "dy": 0.0, "tilt": 0.0, "turn": 0.0}


def test_captions_say_the_emotion_in_many_ways_and_are_sometimes_empty() -> None:
    rng = random.Random(0)
    written = [captions.caption(TAGS, LABELS, rng) for _ in range(2000)]
    empty = [text for text in written if not text or set(text.split(", ")) <= set(captions.NEGATIVE_WORDS)]
    assert 0.07 < len(empty) / len(written) < 0.13
    assert 0.3 < sum(1 for text in empty if text) / len(empty) < 0.5
    said = {word for word in captions.EMOTION_WORDS["happy"] for text in written if word in text.split(", ")}
    assert said == set(captions.EMOTION_WORDS["happy"])
    others = {w for emotion in ("angry", "sad", "surprised") for w in captions.EMOTION_WORDS[emotion]}
    assert not any(word in text.split(", ") for text in written for word in others)


def test_a_caption_is_the_same_for_the_same_seed() -> None:
    assert captions.caption(TAGS, LABELS, random.Random(5)) == captions.caption(TAGS, LABELS, random.Random(5))


def test_the_tokenizer_keeps_tags_whole_and_takes_any_text(tmp_path) -> None:
    tokenizer = build_tokenizer(set(TAGS) | captions.words(), ["cat", "apron"], tmp_path)
    assert tokenizer.tokenize("blue eyes, happy, sky, clouds") == [
        "blue eyes",
        ",</w>",
        "happy",
        ",</w>",
        "sky, clouds",
    ]
    for word in ("cat", "apron", "happy", "hair"):  # none is broken by another's letters
        assert tokenizer.tokenize(word) == [word]
    assert len(tokenizer.tokenize("chairs")) == len("chairs")
    for text in ("日本語", "emoji 🙂", "\u200b", "a" * 500):
        ids = tokenizer(text, truncation=True, max_length=POSITIONS).input_ids
        assert len(ids) <= POSITIONS
        assert max(ids) < len(tokenizer)
    assert tokenizer("x").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer("x").input_ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id


def test_the_text_towers_target_knows_synonyms() -> None:
    index = {tag: i for i, tag in enumerate(TAGS)}
    row = target("female, joyful, golden hair, striped shirt", LABELS, index)
    said = {tag for tag, i in index.items() if row[i]}
    assert said == {"1girl", "happy", "blonde hair", "striped shirt"}
    assert not target(", ".join(captions.NEGATIVE_WORDS), LABELS, index).any()


@pytest.mark.parametrize("tilt", [0.0, 12.0, -12.0])
def test_the_face_counts_more_and_moves_with_the_head(tilt: float) -> None:
    weights = face_weights(PLACED | {"tilt": tilt})
    assert weights.mean().item() == pytest.approx(1)
    assert (weights / weights.min()).unique().tolist() == pytest.approx([1, FACE_WEIGHT, IRIS_WEIGHT])
    heavy = (weights > 1).nonzero().float().mean(0)
    right = (face_weights(PLACED | {"tilt": tilt, "dx": 0.125}) > 1).nonzero().float().mean(0)
    assert right[1] - heavy[1] == pytest.approx(2, abs=0.3)  # an eighth of sixteen cells
    assert right[0] == pytest.approx(heavy[0].item(), abs=0.2)


def test_velocity_gives_back_picture_and_noise() -> None:
    clean, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    alpha_bar = torch.tensor([0.999, 0.5, 0.005])
    noised, v = velocity(clean, noise, alpha_bar)
    a = alpha_bar.view(-1, 1, 1, 1)
    torch.testing.assert_close(a.sqrt() * noised - (1 - a).sqrt() * v, clean)
    torch.testing.assert_close((1 - a).sqrt() * noised + a.sqrt() * v, noise)


def test_folding_normalises_latents_and_changes_no_picture() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8), latent_channels=3, norm_num_groups=2, layers_per_block=1, scaling_factor=0.2,
    ).eval()  # fmt: skip
    pictures = torch.randint(0, 255, (24, 16, 16, 3), dtype=torch.uint8).numpy()
    raw = encode(vae, pictures)
    with torch.no_grad():
        before = vae.decode(raw).sample
    fold(vae, raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
    folded = encode(vae, pictures)
    torch.testing.assert_close(folded.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(folded.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(vae.decode(folded).sample, before, atol=1e-4, rtol=1e-3)
    assert vae.config.scaling_factor == 1.0


def test_other_shards_are_encoded_by_what_was_folded_before(tmp_path, monkeypatch) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), block_out_channels=(4,),
        latent_channels=3, norm_num_groups=2, layers_per_block=1,
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "first" / "vae")
    (tmp_path / "first" / "channels.json").write_text(json.dumps({"weights": [1.0, 2.0, 0.5]}))
    (tmp_path / "bent").mkdir()
    pictures = torch.randint(0, 255, (3, 16, 16, 3), dtype=torch.uint8).numpy()
    np.save(tmp_path / "bent" / "p200.npy", pictures)
    monkeypatch.setattr(latents, "prepare", lambda args: pytest.fail("it would be folded a second time"))
    command = ["--data", str(tmp_path / "bent"), "--folded", str(tmp_path / "first"), "--processes", "1"]
    monkeypatch.setattr(sys, "argv", ["latents", *command, "--out", str(tmp_path / "second")])
    latents.cli()
    assert (tmp_path / "second" / "channels.json").read_text() == (tmp_path / "first" / "channels.json").read_text()
    found = latents.load(tmp_path / "second")["200"]
    torch.testing.assert_close(found, encode(vae.eval(), pictures).half(), atol=2e-3, rtol=1e-2)


def test_state_survives_a_crash_between_its_two_renames(tmp_path) -> None:
    folder = tmp_path / "state"
    for step in (1, 2):
        save_state(folder, {"x": torch.tensor([float(step)])}, {"step": step})
    (tmp_path / "state.old").mkdir()
    for path in folder.iterdir():
        path.rename(tmp_path / "state.old" / path.name)
    folder.rmdir()
    tensors, meta = load_state(folder)
    assert (tensors["x"].item(), meta["step"]) == (2.0, 2)


def test_an_optimizer_goes_on_exactly_where_it_was() -> None:
    def steps(model: torch.nn.Linear, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    straight = torch.nn.Linear(3, 2)
    broken = torch.nn.Linear(3, 2)
    broken.load_state_dict(straight.state_dict())
    first, second = (torch.optim.AdamW(m.parameters(), 0.1) for m in (straight, broken))
    steps(straight, first, 6)
    steps(broken, second, 3)
    fresh = torch.optim.AdamW(broken.parameters(), 0.1)
    restore_optimizer(fresh, optimizer_tensors(second))
    steps(broken, fresh, 3)
    assert torch.equal(straight.weight, broken.weight)


def test_a_longer_unet_does_not_make_the_autoencoder_anew(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(build, "sources", functools.cache(build.sources))  # the code stays as it is meanwhile

    def stamps(hours: float) -> dict[str, str]:
        found: dict[str, str] = {}
        for step in build.steps(tmp_path, tmp_path / "out", hours):
            found[step.name] = build.digest(step, found)
        return found

    short, long = stamps(1), stamps(2)
    assert {name for name in short if short[name] != long[name]} >= {"unet", "assemble"}
    assert all(short[name] == long[name] for name in ("corpus", "judge", "vae", "latents", "text_tower"))
    assert json.dumps(short) == json.dumps(stamps(1))


STUBS = {
    # each keeps what is there, as the real ones do: a corpus, an autoencoder, its latents, a UNet that resumes
    "corpus": "write(out, 'painted')",
    "vae": "write(out / 'vae', 'vae 1')",
    "latents": "from studio.pretraining.vae import QUALITY\nwrite(out / 'z', (state / 'vae/vae').read_text())",
    "unet": "write(out / 'state', 'unet of ' + (state / 'latents/z').read_text())\n"
    "sys.exit((state / 'broken').exists())",
}
WRITE = """
import sys
from pathlib import Path
QUALITY = 1
def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    with (state / 'log').open('a') as log:
        log.write(path.name + (' kept ' if path.exists() else ' made '))
    path.exists() or path.write_text(text)
state, out = (Path(word) for word in sys.argv[1:])
"""


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """A recipe of small scripts; returns what makes it and tells what the steps did."""
    code, state = tmp_path / "code", tmp_path / "state"
    code.mkdir()
    for name, text in STUBS.items():
        lines = text.replace("from studio.pretraining.vae import QUALITY", "if False:\n    from .vae import QUALITY")
        (code / f"{name}.py").write_text(WRITE + lines)
    monkeypatch.setattr(build, "CODE", code)
    monkeypatch.setattr(
        build, "command", lambda step: [sys.executable, "-S", str(code / f"{step.module}.py"), *step.options]
    )

    def recipe(state, out, hours):
        def step(name: str, *after: str) -> build.Step:
            return build.Step(name, name, (str(state), str(state / name)), after, (name,))

        return [step("corpus"), step("vae", "corpus"), step("latents", "vae"), step("unet", "latents")]

    monkeypatch.setattr(build, "steps", recipe)

    def make() -> tuple[int, str]:
        state.mkdir(exist_ok=True)
        (state / "log").write_text("")
        done = build.main(argparse.Namespace(state=state, out=tmp_path / "out", hours=1, dry_run=False))
        return done, (state / "log").read_text().strip()

    return make, code, state


def test_a_changed_autoencoder_makes_latents_and_unet_anew_for_real(stubs) -> None:
    make, code, state = stubs
    assert make() == (0, "corpus made vae made z made state made")
    assert make() == (0, "")
    vae = code / "vae.py"
    vae.write_text("# said differently\n" + vae.read_text())
    assert make() == (0, ""), "a comment makes no other picture"
    vae.write_text(vae.read_text().replace("vae 1", "vae 2"))
    assert make() == (0, "vae made z made state made")
    assert (state / "unet" / "state").read_text() == "unet of vae 2"


def test_code_that_a_step_imports_counts_as_its_own(stubs) -> None:
    _, code, _ = stubs
    (code / "latents.py").write_text((code / "latents.py").read_text() + "\nfrom studio.pretraining import shared\n")
    assert [path.name for path in build.sources("latents")] == ["latents.py", "vae.py"]
    (code / "shared.py").write_text("from .deep.inner import x")
    (code / "deep").mkdir()
    (code / "deep" / "__init__.py").write_text("")
    (code / "deep" / "inner.py").write_text("from . import beside\nfrom ..vae import QUALITY")
    (code / "deep" / "beside.py").write_text("")
    found = {str(path.relative_to(code)) for path in build.sources("latents")}
    assert found == {"latents.py", "vae.py", "shared.py", "deep/__init__.py", "deep/inner.py", "deep/beside.py"}


def test_an_interrupted_step_goes_on_and_is_not_begun_anew(stubs) -> None:
    make, _, state = stubs
    state.mkdir()
    (state / "broken").write_text("")
    assert make() == (1, "corpus made vae made z made state made")
    (state / "broken").unlink()
    assert make() == (0, "state kept")
    assert make() == (0, "")


def test_the_recipe_names_what_each_step_leaves(tmp_path) -> None:
    recipe = build.steps(tmp_path, tmp_path / "out", 3)
    (tmp_path / "data").mkdir()
    for name in ("p000.npy", "m000.json", "p100.npy", "m100.json"):
        (tmp_path / "data" / name).write_text("")
    build.clear(tmp_path, recipe[0])
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["m100.json", "p100.npy"]
    without = [step.name for step in recipe if not step.leaves]
    replace = ["assemble", "assemble-parts", "assemble-decoder"]
    assert without == replace, "they replace the parts of the model that ships"
    assert {"unet.py", "judge.py", "painter/__init__.py"} <= {
        str(path.relative_to(build.CODE)) for step in recipe for path in build.sources(step.module)
    }


def test_models_are_averaged_by_their_shares() -> None:
    one, other = torch.nn.Linear(2, 2).half(), torch.nn.Linear(2, 2).half()
    wanted = 0.25 * one.weight.detach().float() + 0.75 * other.weight.detach().float()
    found = mean_of([one, other], [0.25, 0.75])
    assert found.weight.dtype == torch.float32
    assert torch.allclose(found.weight, wanted)
    with pytest.raises(SystemExit, match="sum to 1"):
        mean_of([one, other], [0.5, 0.6])
