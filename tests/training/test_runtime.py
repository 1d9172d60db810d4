"""What all trainers stand on: precision, memory of a card, processes, optimisers of other libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from support.checkpoints import tiny_sd
from support.training_sets import write_run, write_set

from studio.core.errors import BadInput, OutOfMemory
from studio.core.settings import Settings
from studio.core.specs import ControlRunSpec, LcmSpec, LoraSpec
from studio.engine import memory
from studio.runs.rundir import RunDir
from studio.training.controlnet import train as control
from studio.training.distill import train as lcm
from studio.training.lora import train as lora
from studio.training.runtime import checkpoints, steps
from studio.training.runtime.batch_sizer import OomBatchSizer
from studio.training.runtime.launch import asked_for
from studio.training.runtime.runtime import Runtime, choose_precision, move_to_device, training_bytes
from studio.training.runtime.session import Diverged, Session

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    run = write_run(tmp_path, "run", LoraSpec(data="x"))
    return Runtime(Session(run), "auto", Settings(home=tmp_path, device="cpu"))


def test_what_learns_stays_in_full_precision() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    net[0].requires_grad_(False)
    move_to_device(net, torch.device("cpu"), torch.bfloat16)
    assert {p.dtype for p in net[0].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in net[1].parameters()} == {torch.float32}
    assert net[1].num_batches_tracked.dtype == torch.int64  # a counter is no weight
    assert training_bytes([net], torch.bfloat16, average=False) == 9 * 2 + 6 * 4 * 4


def test_precision_is_chosen_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", cpu=True) == ("fp32", torch.float32)
    assert choose_precision("bf16", cpu=True) == ("bf16", torch.bfloat16)
    with pytest.raises(BadInput, match="NVIDIA cards only"):
        choose_precision("fp16", cpu=True)
    for supported, name in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert choose_precision("auto", cpu=False)[0] == name


def test_a_card_that_is_too_small_is_seen_before_anything_long(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.check_memory(10**15, "wait")  # main memory: the service looked at it, and it can be swapped
    runtime.on_cpu = False
    monkeypatch.setattr(memory, "total", lambda device: 6 * 10**9)
    runtime.check_memory(5 * 10**9, "choose a smaller model")
    with pytest.raises(
        OutOfMemory, match=r"at least 7\.0 GB of the card's memory and it has 6\.0 GB: choose a smaller"
    ):
        runtime.check_memory(7 * 10**9, "choose a smaller model")


@pytest.mark.parametrize("kind", ["lora", "control", "full"])
def test_every_trainer_asks_whether_the_card_is_large_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model, data = tiny_sd(tmp_path / "models" / "tiny"), write_set(tmp_path / "data", 2)
    common: dict[str, Any] = {"model": str(model), "data": str(data), "epochs": 1}
    spec, trainer = {
        "lora": (LoraSpec(rank=2, **common), lora),
        "control": (ControlRunSpec(init=None, **common), control),
        "full": (LcmSpec(form="full", **common), lcm),
    }[kind]
    run = RunDir(tmp_path / "runs" / kind)
    run.path.mkdir(parents=True)
    run.write_spec(spec)
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    monkeypatch.setenv("STUDIO_DEVICE", "cpu")
    checked: list[int] = []

    def too_small(self: Runtime, needed: int, advice: str) -> None:
        checked.append(needed)
        raise OutOfMemory(f"Too little: {advice}.")

    monkeypatch.setattr(Runtime, "check_memory", too_small)
    with pytest.raises(SystemExit):
        trainer.main(run.path)
    assert "Too little" in run.status()["error"]
    weights = sum(file.stat().st_size for file in (model / "unet").glob("*.safetensors"))
    assert checked[0] > weights  # more than the frozen UNet
    assert not (tmp_path / "runs" / ".latents").exists()  # nothing was drawn before
    assert not (tmp_path / "runs" / ".drawings").exists()


def test_a_batch_is_shared_evenly_or_refused(runtime: Runtime) -> None:
    assert runtime.share(7) == slice(0, 7)
    runtime.processes, runtime.rank = 2, 1
    assert runtime.share(6) == slice(3, 6)
    with pytest.raises(BadInput, match="can't be shared by 2 processes"):
        runtime.share(7)


def test_gradients_are_those_of_the_whole_batch_when_memory_runs_out() -> None:
    weight, restarts = torch.nn.Parameter(torch.tensor(2.0)), []

    def backward(part: Any) -> torch.Tensor:
        loss = sum(weight * x for x in part)
        loss.backward()  # a part that fails afterwards has left its gradient already
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss.detach()

    def start_again(size: int) -> None:
        weight.grad = None
        restarts.append(size)

    sizer = OomBatchSizer(8)
    total = sizer.total([range(1, 6), range(6, 8)], backward, start_again)
    assert (float(total), float(weight.grad), restarts, sizer.size) == (56.0, 28.0, [4, 2], 2)
    assert float(sizer.total([], backward, start_again)) == 0


class Nested(torch.optim.SGD):
    """Keeps a part of its state in a dictionary of its own, as bitsandbytes' 8-bit optimisers do."""

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["state"] = {
            index: {"step": 3, "quantised": {"state1": torch.arange(4, dtype=torch.uint8), "absmax": torch.ones(1)}}
            for index in range(2)
        }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state["state"]


def test_state_in_dictionaries_inside_is_saved_and_restored(tmp_path: Path) -> None:
    def one() -> Nested:
        return Nested([torch.nn.Parameter(torch.ones(2)) for _ in range(2)], lr=0.1)

    run = RunDir(tmp_path)
    tensors, groups = checkpoints.optimizer_state(one())
    checkpoints.save(run, "step-00000003", 3, 0, {"optimizer": tensors}, {"optimizer": groups})
    found, _ = checkpoints.latest_good(run)
    assert found is not None
    restored = one()
    checkpoints.restore_optimizer(restored, found.groups["optimizer"], found.meta["optimizer"])
    assert restored.loaded.keys() == {0, 1}
    assert restored.loaded[1]["step"] == 3
    assert torch.equal(restored.loaded[1]["quantised"]["state1"], torch.arange(4, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("command", "count"),
    [
        (["/v/bin/python", "/v/bin/accelerate", "launch", "--cpu", "--num_processes", "2", "-m", "x.y", "DIR"], 2),
        (["/v/bin/python", "/v/bin/accelerate-launch", "--cpu", "--num-processes=3", "-m", "x.y", "DIR"], 3),
        (["python", "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "-m", "x.y", "DIR"], 2),
        (["/v/bin/python", "/v/bin/accelerate", "launch", "--cpu", "-m", "x.y", "DIR", "--num_processes", "4"], 1),
        (["bash", "-c", "accelerate launch --cpu --num_processes 2 -m x.y DIR"], 1),
        (["/sbin/init"], 1),
        (
            [r"C:\v\Scripts\python.exe", r"C:\v\Scripts\accelerate.exe", "launch", "--num_processes", "2", "-m", "x.y"],
            2,
        ),
        ([r"C:\v\Scripts\Accelerate-Launch.EXE", "--cpu", "--num_processes", "3", "-m", "x.y", r"C:\runs\DIR"], 3),
        (["python.exe", r"C:\v\Lib\site-packages\accelerate\commands\launch.py", "--num_processes=2", "-m", "x.y"], 2),
        (["python.exe", r"C:\notaccelerate.exe", "launch", "--num_processes=2", "-m", "x.y"], 1),
    ],
)
def test_what_accelerate_was_asked_for(command: list[str], count: int) -> None:
    assert asked_for(command) == count


def test_the_launcher_is_found_above_a_python_that_only_starts_another_one(tmp_path: Path) -> None:
    between = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    asks = "from studio.training.runtime import launch; print(launch.asked_for_above())"
    (tmp_path / "accelerate").write_text(
        f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {between!r}, sys.executable, '-c', "
        f"{asks!r}]))"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "accelerate"), "launch", "--cpu", "--num_processes", "3", "-m", "x.y"],
        cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["3"], done.stderr[-800:]


WAITS = """
import sys
from pathlib import Path
import torch
from torch.distributed import group
from studio.core.settings import Settings
from studio.runs.rundir import RunDir
from studio.training.runtime import steps
from studio.training.runtime.runtime import Runtime
from studio.training.runtime.session import Session
Runtime(Session(RunDir(Path(sys.argv[1]))), "auto", Settings(device="cpu"))
print(group.WORLD._get_backend(torch.device("cpu")).options._timeout.total_seconds())
"""


def test_a_process_waits_for_another_that_draws_for_hours(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    (tmp_path / "waits.py").write_text(WAITS)
    done = subprocess.run(
        [sys.executable, *torchrun, str(tmp_path / "waits.py"), str(tmp_path)], cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True,
    )  # fmt: skip
    assert float(done.stdout.split()[-1]) > 24 * 3600, done.stderr[-800:]


def test_a_gradient_that_overflows_however_little_it_is_scaled_ends_the_run(runtime: Runtime) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    runtime.accelerator.scaler = scaler
    optimizer = AcceleratedOptimizer(torch.optim.SGD([weight], lr=0.1), device_placement=False, scaler=scaler)

    def step(number: int, gradient: float) -> None:
        scaler.scale(weight * gradient).sum().backward()
        runtime.step(optimizer, torch.tensor(1.0), 1.0, number)

    for number in (1, 2):
        step(number, float("inf"))  # left out
    step(3, 1.0)
    assert weight.item() == pytest.approx(0.9)
    with pytest.raises(Diverged, match="too large for half precision at step 4"):
        step(4, float("inf"))
    assert weight.item() == pytest.approx(0.9)


def test_an_xformers_for_another_torch_keeps_no_trainer_from_starting(tmp_path: Path) -> None:
    (tmp_path / "xformers").mkdir()
    (tmp_path / "xformers" / "__init__.py").write_text("")
    (tmp_path / "xformers" / "ops.py").write_text("raise OSError('undefined symbol: _ZN3c10')")
    (tmp_path / "xformers-0.0.29.dist-info").mkdir()
    (tmp_path / "xformers-0.0.29.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: xformers\nVersion: 0.0.29\n"
    )
    modules = ("lora.train", "controlnet.train", "lora.estimate", "distill.memory", "export_checkpoint")
    each = "; ".join(f"import studio.training.{name}" for name in modules)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    for code in (each, *(f"import studio.training.{name}" for name in modules[:1])):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-800:]


def test_a_run_from_before_an_option_was_renamed_is_resumed() -> None:
    from studio.training.runtime.resume import diff, resume_fingerprint

    now = resume_fingerprint(
        LcmSpec(objective="dmd", dmd_share=0.2), "model", "data", 50, torch.device("cpu"), "fp32", 1
    )
    before = json.loads(json.dumps(now))
    before["spec"]["match"] = before["spec"].pop("dmd_share")
    before["spec"]["finish"] = before["spec"].pop("exact_target_share")
    assert diff(before, now) == []
    before["spec"]["match"] = 0.1
    assert diff(before, now) == ["Changed since the checkpoint: dmd_share was 0.1, is 0.2."]
    before["spec"]["taste"] = "sweet"
    with pytest.raises(BadInput, match="made by another version of the studio"):
        diff(before, now)
    assert diff({}, now) == []  # a ControlNet's, from before they had one


def test_every_pass_through_the_pictures_has_an_order_of_its_own() -> None:
    taken = [row for step in range(5) for row in steps.rows(step, 4, 10, seed=3)]
    first, second = taken[:10], taken[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first == steps.permutation(10, 3, "order", 0)
    assert second == steps.permutation(10, 3, "order", 1)
    assert first != second
