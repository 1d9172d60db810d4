"""A whole distillation on a tiny model: both forms, all objectives, exact resume, the curve, export, bad days."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    LatentConsistencyModelPipeline,
    StableDiffusionPipeline,
    TCDScheduler,
)
from PIL import Image
from safetensors.torch import load_file
from support.distillations import judged_teacher, run_of, same, tensors

from studio.core.errors import BadInput
from studio.core.settings import Settings, settings
from studio.core.specs import LcmSpec
from studio.engine.diffusion import sampling, schedulers, text
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.engine import load
from studio.engine.models import adapters
from studio.engine.models.catalogue import resolve
from studio.pretraining.lcm import ship, shortened
from studio.runs.rundir import RunDir
from studio.training.distill import curve, train
from studio.training.export_checkpoint import export_checkpoint
from studio.training.runtime import checkpoints
from studio.training.runtime.runtime import Runtime
from studio.training.runtime.session import Session

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    # diffusers' own pipeline would rather have its own value in the scheduler's file
    pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning"),
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judged_teacher(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    monkeypatch.setenv("STUDIO_DEVICE", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
def new_run(home: Path, teacher: Path) -> Callable[..., RunDir]:
    def make(folder: str, **changes: Any) -> RunDir:
        return run_of(home / "runs" / folder, **{"model": str(teacher), **changes})

    return make


@pytest.mark.parametrize(
    ("form", "objective"),
    [("lora", "lcm"), ("lora", "tcd"), ("lora", "pcm"), ("lora", "dmd"), ("full", "lcm")],
)
def test_a_run_from_nothing(new_run: Callable[..., RunDir], form: str, objective: str) -> None:
    run = new_run("whole", form=form, objective=objective, exact_target_share=0.3, dmd_share=0.6)
    train.main(run.path)
    status = run.status()
    assert status["state"] == "done"
    assert [m["step"] for m in run.metrics()] == [1, 2, 3, 4, 5, 6]
    assert checkpoints.names(run) == ["epoch-0001", "epoch-0002", "epoch-0003"]
    rows = status["curve"]["rows"]
    assert [(row["who"], row["steps"]) for row in rows] == [
        ("teacher", 3), *(("dpmpp_2m", n) for n in curve.STEPS), *(("student", n) for n in curve.STEPS)
    ]  # fmt: skip
    for row in rows:
        assert row["seconds"] > 0
        assert 0 <= row["emotion"] <= 1
        assert 0 <= row["style"] <= 1
        assert row["frechet"] >= 0
        assert row["clip"] is None
    assert rows[0]["drift"] == 0  # the teacher at its best is what the others are compared with
    assert min(row["drift"] for row in rows[1:]) > 0
    best = status["best"]
    assert best in checkpoints.names(run)
    assert best == max(status["curve"]["checkpoints"], key=lambda c: c["quality"])["name"]
    with Image.open(run.samples / f"{best}-4.png") as strip:
        assert strip.size == (256, 128)
    assert Path(status["adapter"]).exists()


@pytest.mark.parametrize(
    ("form", "objective", "call", "stopped"),
    [
        ("lora", "lcm", 4, 3), ("adversary", "dmd", 9, 5),
        pytest.param("full", "lcm", 4, 3, marks=pytest.mark.slow),
        pytest.param("lora", "dmd", 9, 5, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_killed_run_ends_at_the_same_bytes(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str, objective: str,
    call: int, stopped: int,
) -> None:  # fmt: skip
    # dmd: two steps as PCM, one of the critic alone (two calls), three of both (three calls each)
    asked = {"form": form, "objective": objective, "exact_target_share": 0.3, "dmd_share": 0.6}
    if form == "adversary":
        asked |= {"form": "lora", "data": str(three_pictures(tmp_path / "pictures")), "adversarial_weight": 0.01}
    straight = new_run("straight", **asked)
    train.main(straight.path)
    killed = new_run("killed", **asked)
    calls = []
    real = Runtime.step

    class Killed(BaseException):
        """What nothing catches, as a kill."""

    def dies(*args: Any) -> float:
        calls.append(None)
        if len(calls) == call:  # in the middle of an epoch: its first step is lost
            raise Killed
        return real(*args)

    monkeypatch.setattr(Runtime, "step", dies)
    with pytest.raises(Killed):
        train.main(killed.path)
    assert killed.status()["state"] == "crashed"

    def asks_to_stop(*args: Any) -> float:
        killed.request_stop()
        return real(*args)

    monkeypatch.setattr(Runtime, "step", asks_to_stop)
    train.main(killed.path)  # one step, a checkpoint in the middle of an epoch, and the end
    monkeypatch.setattr(Runtime, "step", real)
    assert killed.status()["state"] == "stopped"
    assert checkpoints.names(killed)[-1] == f"step-0000000{stopped}"
    killed.clear_stop()
    train.main(killed.path)
    assert killed.status()["state"] == "done"
    name = "epoch-0003"
    assert same(tensors(straight.checkpoints / name), tensors(killed.checkpoints / name))
    assert [m["loss"] for m in straight.metrics()] == [m["loss"] for m in killed.metrics()]
    assert any(key.startswith("head.") for key in tensors(straight.checkpoints / name)) is (form == "adversary")
    assert same(tensors(straight.path / "best"), tensors(killed.path / "best"))


def test_latents_are_drawn_once(new_run: Callable[..., RunDir], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_run("first", epochs=1)
    with monkeypatch.context() as patch:  # a stop that was asked for while the teacher draws
        patch.setattr(Session, "must_stop", lambda session: "stop")
        train.main(first.path)
    assert first.status()["state"] == "stopped"
    files = sorted((home / "runs" / ".latents").rglob("*.safetensors"))
    assert len(files) == 1  # of two: what was drawn until then is kept
    train.main(first.path)
    files = sorted((home / "runs" / ".latents").rglob("*.safetensors"))
    before = [(f, f.stat().st_mtime_ns, f.read_bytes()) for f in files]
    assert len(files) == 2
    files[1].write_bytes(b"torn")
    train.main(new_run("second", epochs=1).path)  # same teacher, same prompts
    for (file, time, data), changed in zip(before, (False, True), strict=True):
        assert file.read_bytes() == data
        assert (file.stat().st_mtime_ns != time) is changed
    train.main(new_run("third", epochs=1, seed=1).path)
    assert len(list((home / "runs" / ".latents").rglob("*.safetensors"))) == 4


def three_pictures(folder: Path) -> Path:
    folder.mkdir()
    for k in range(3):
        Image.effect_noise((80 + 16 * k, 96), 60 + k).convert("RGB").save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text("1girl, red hair")
    return folder


def test_a_folder_of_pictures(new_run: Callable[..., RunDir], tmp_path: Path) -> None:
    data = three_pictures(tmp_path / "pictures")
    run = new_run("folder", data=str(data), epochs=1)
    train.main(run.path)
    assert run.status()["state"] == "done"
    (file,) = (tmp_path / "runs" / ".latents").rglob("*.safetensors")
    assert load_file(file)["latents"].shape == (3, 16, 4, 4)


def test_prompts_beside_the_request_are_used(
    new_run: Callable[..., RunDir], capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run("own", epochs=1, curve_pictures=0)
    (run.path / "prompts.txt").write_text("1girl, sad\n\n1boy, happy\n")
    train.main(run.path)
    assert "20 latents of (16, 4, 4), 2 prompts" in capsys.readouterr().out


def test_the_export_draws_what_the_student_drew(new_run: Callable[..., RunDir], teacher: Path) -> None:
    """The LoRA file in the engine, in a diffusers pipeline, and the student in the run: one output."""
    run = new_run("export", learning_rate=0.05)
    train.main(run.path)
    components = load(resolve(str(teacher), Settings()), Settings(device="cpu"))
    z, words = torch.randn(1, 16, 4, 4), torch.randn(1, 77, 32)
    t = torch.tensor([499])
    plain = components.unet(z, t, words).sample
    with adapters.attached(components, [(Path(run.status()["adapter"]), 1.0)]):
        ours = components.unet(z, t, words).sample
    assert (ours - plain).abs().max() > 1e-3
    pipeline = StableDiffusionPipeline.from_pretrained(teacher, safety_checker=None)
    pipeline.load_lora_weights(run.adapter / "diffusers")
    torch.testing.assert_close(pipeline.unet(z, t, words).sample, ours, rtol=1e-4, atol=1e-4)
    spec = run.spec()
    assert isinstance(spec, LcmSpec)
    from studio.training.distill.student import LoraStudent

    student = LoraStudent(components.unet, components.family.lcm_lora_targets, spec.rank)
    best = load_file(run.path / "best" / "ema.safetensors")
    with torch.no_grad():
        for name, mean in student.average.tensors.items():
            mean.copy_(best[name])
    with student.drawing() as unet:
        torch.testing.assert_close(unet(z, t, words).sample, ours, rtol=1e-4, atol=1e-4)
    facts = json.loads((run.adapter / "studio.json").read_text())
    assert facts["fast"] == {"steps": 4, "guidance": 1.0, "sampler": "lcm"}


def test_a_full_student_is_a_model_of_its_own(new_run: Callable[..., RunDir]) -> None:
    run = new_run("full", form="full", learning_rate=1e-3)
    train.main(run.path)
    folder = Path(run.status()["adapter"])
    assert json.loads((folder / "unet" / "config.json").read_text())["time_cond_proj_dim"] == 256
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline) is LatentConsistencyModelPipeline
    drawn = pipeline(
        "1girl, happy", num_inference_steps=2, guidance_scale=2.5, output_type="np",
        generator=torch.Generator().manual_seed(0), height=64, width=64,
    ).images  # fmt: skip
    assert drawn.shape == (1, 64, 64, 3)
    weight = pipeline.unet.time_embedding.cond_proj.weight
    assert weight.abs().max() > 0  # it began at zero: w was learnt
    info = resolve(str(folder), Settings())
    assert (info.sampler, info.steps, info.guidance) == ("lcm", 4, 2.5)
    again = run_of(run.path.with_name("again"), model=str(folder))
    with pytest.raises(SystemExit) as ended:
        train.main(again.path)
    assert ended.value.code == 2
    assert "distilled model already" in again.status()["error"]


@pytest.mark.parametrize(("objective", "scheduler"), [("tcd", TCDScheduler), ("pcm", DDIMScheduler)])
def test_a_full_student_opens_with_its_own_scheduler(
    new_run: Callable[..., RunDir], objective: str, scheduler: type
) -> None:
    run = new_run("full", form="full", objective=objective, epochs=1, curve_pictures=0)
    train.main(run.path)
    folder = Path(run.status()["adapter"])
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline) is StableDiffusionPipeline
    assert type(pipeline.scheduler) is scheduler
    with torch.no_grad():
        pipeline.unet.time_embedding.cond_proj.weight.fill_(0.1)
    told = []
    pipeline.unet.register_forward_pre_hook(
        lambda _, args, kwargs: told.append(kwargs["timestep_cond"]), with_kwargs=True
    )
    noise = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    theirs = pipeline("1girl", num_inference_steps=4, guidance_scale=2.5, output_type="latent", latents=noise).images
    assert all(len(w) == 1 for w in told)  # one branch, which is told the guidance
    assert len(told) == 4
    assert torch.isfinite(theirs).all()
    if objective == "pcm":  # no noise on the way: the studio's own pixels
        ours = load(resolve(str(folder), Settings()), Settings(device="cpu"))
        with torch.no_grad():
            ours.unet.time_embedding.cond_proj.weight.fill_(0.1)
        schedule = schedulers.make_scheduler(ours.info.sampler, ours.scheduler_config)
        timesteps = schedulers.set_timesteps(schedule, 4)
        denoiser = Denoiser(ours.unet, text.encode_prompts(ours, ["1girl"]), guidance=2.5)
        drawn = sampling.sample(denoiser, schedule, noise, timesteps, sampling.generators([0]))
        torch.testing.assert_close(theirs, drawn, rtol=1e-3, atol=1e-3)


def test_a_character_is_part_of_the_teacher(new_run: Callable[..., RunDir], home: Path) -> None:
    first = new_run("character", name="character", epochs=1, learning_rate=0.05, curve_pictures=0)
    train.main(first.path)
    lora = home / "models" / "loras" / "character.safetensors"
    lora.parent.mkdir(parents=True)
    shutil.copy(first.status()["adapter"], lora)
    plain = new_run("plain", epochs=1, curve_pictures=0)
    with_character = new_run("with", epochs=1, curve_pictures=0, loras=[{"path": "character", "weight": 0.8}])
    train.main(plain.path)
    train.main(with_character.path)
    assert with_character.status()["state"] == "done"
    assert plain.metrics()[0]["loss"] != with_character.metrics()[0]["loss"]
    assert len(list((home / "runs" / ".latents").iterdir())) == 2  # another teacher, other latents
    # The student's LoRA begins where the teacher ends: it says what it is used beside.
    (beside,) = json.loads((with_character.adapter / "studio.json").read_text())["with"]
    assert (beside["title"], beside["weight"]) == ("character", 0.8)
    assert "with" not in json.loads((plain.adapter / "studio.json").read_text())
    # and so does what is made of the last checkpoint after a failure, also where the character is gone by then
    facts = json.loads((with_character.adapter / "studio.json").read_text())
    for there in (True, False):
        shutil.rmtree(with_character.adapter)
        assert export_checkpoint(with_character).is_file()
        assert json.loads((with_character.adapter / "studio.json").read_text()) == facts
        lora.unlink(missing_ok=not there)


def test_the_benchmark_on_a_shipped_adapter(
    new_run: Callable[..., RunDir], teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `benchmarks/lcm.py` does with the embedded model, with a model that has such an adapter beside it."""
    place = Path(__file__).resolve().parents[2] / "benchmarks" / "lcm.py"
    spec = importlib.util.spec_from_file_location("benchmarks.lcm", place)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "BEST_STEPS", 3)
    run = new_run("shipped", epochs=1)
    train.main(run.path)
    model = tmp_path / "model"
    shutil.copytree(teacher, model)
    with pytest.raises(BadInput, match="no fast adapter"):
        benchmark.measure(str(model), 2)
    measured = json.loads((run.path / "curve.json").read_text())
    solver = next(row for row in measured["baseline"] if row["who"] == "dpmpp_2m" and row["steps"] == 4)
    for better, frechet in ((False, 0.0), (True, 1e9)):  # only an adapter that beats DPM++ 2M is worth its megabytes
        solver |= {"frechet": frechet, "emotion": 0.0}
        (run.path / "curve.json").write_text(json.dumps(measured))
        file = ship(run.path, model / "lcm_lora")
        assert (file is not None) == (model / "lcm_lora").exists() == better
    assert file is not None
    assert {t.dtype for t in load_file(file).values()} == {torch.float16}
    facts = json.loads((model / "studio.json").read_text())
    facts["fast"] = {"adapter": "lcm_lora", "steps": 4, "guidance": 1.0, "sampler": "lcm"}
    (model / "studio.json").write_text(json.dumps(facts))
    found = benchmark.measure(str(model), 2)
    assert set(found["rows"]) == {"teacher-3"} | {f"{who}-{n}" for who in ("student", "dpmpp_2m") for n in curve.STEPS}
    assert found["whole_seconds"]["fast"] > 0
    json.dumps(found)


def test_falling_quality_ends_the_run(new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    falling = iter([0.5, 0.9, 0.4, 0.3, 0.2])
    monkeypatch.setattr(curve, "quality", lambda *_: next(falling))
    run = new_run("falling", epochs=9, patience=2)
    train.main(run.path)
    status = run.status()
    assert (status["state"], status["step"], status["best"]) == ("done", 8, "epoch-0002")
    assert any("Quality has fallen for 2 checkpoints" in note for note in status["notes"])
    kept = load_file(run.path / "best" / "ema.safetensors")
    assert same(kept, load_file(run.checkpoints / "epoch-0002" / "ema.safetensors"))


def test_a_loss_that_is_no_number_costs_nothing(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run("nan", ema_decay=0.5)
    real, calls = train.lcd.distance, []

    def breaks(*args: Any) -> torch.Tensor:
        calls.append(None)
        return real(*args) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(train.lcd, "distance", breaks)
    with pytest.raises(SystemExit) as ended:
        train.main(run.path)
    assert ended.value.code == 1
    assert run.status()["state"] == "failed"
    assert "lower learning rate" in run.status()["error"]
    found, damaged = checkpoints.latest_good(run)
    assert found is not None
    assert (found.name, damaged) == ("epoch-0001", [])
    assert all(torch.isfinite(t).all() for group in found.groups.values() for t in group.values())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"w_min": 9.0, "w_max": 2.0}, "guidance range is empty"),
        ({"precision": "fp16"}, "NVIDIA cards only"),
        ({"model": "nowhere"}, "There is no model 'nowhere'"),
        ({"data": "/nowhere"}, "There is no data set"),
        ({"loras": [{"path": "nobody"}]}, "There is no LoRA 'nobody'"),
    ],
)
def test_bad_requests_end_with_a_sentence(
    new_run: Callable[..., RunDir], changes: dict[str, Any], sentence: str
) -> None:
    run = new_run("bad", **changes)
    with pytest.raises(SystemExit) as ended:
        train.main(run.path)
    assert ended.value.code == 2
    assert sentence in run.status()["error"]
    assert not run.checkpoints.exists()


def test_a_shipped_adapter_keeps_the_largest_singular_values() -> None:
    g = torch.Generator().manual_seed(0)
    big, small = torch.randn(12, 3, generator=g), 0.01 * torch.randn(12, 5, generator=g)
    tensors = {
        "unet.a.lora_B.weight": torch.cat([big, small], 1),
        "unet.a.lora_A.weight": torch.randn(8, 10, generator=g),
        "unet.b.lora_B.weight": 0.001 * torch.randn(4, 8, 1, 1, generator=g),
        "unet.b.lora_A.weight": torch.randn(8, 6, 3, 3, generator=g),
    }

    def deltas(found: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return [found[f"unet.{k}.lora_B.weight"].flatten(1) @ found[f"unet.{k}.lora_A.weight"].flatten(1) for k in "ab"]

    whole = shortened(tensors, 1000)
    for made, wanted in zip(deltas(whole), deltas(tensors), strict=True):
        torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-4)
    assert whole["unet.b.lora_A.weight"].shape == (4, 6, 3, 3)  # more than its four rows has no layer
    short = shortened(tensors, 3 * 22 + 58)  # room for the three strong ones, and the one that each layer keeps
    assert [short[f"unet.{k}.lora_A.weight"].shape[0] for k in "ab"] == [3, 1]
    assert sum(t.numel() for t in short.values()) <= 3 * 22 + 58
    assert (deltas(short)[0] - deltas(tensors)[0]).norm() < 0.05 * deltas(tensors)[0].norm()
