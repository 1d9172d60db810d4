"""The networks of a distillation, the prompts it learns from, and the number that orders its checkpoints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from support.checkpoints import SD15_CONFIG, SD15_UNET_PARAMETERS, tiny_sd

from studio.engine.models.families import SD15
from studio.training.distill import prompts
from studio.training.distill.curve import Row, quality
from studio.training.distill.student import (
    ADAPTER,
    FullStudent,
    LoraStudent,
    add_lora,
    tensors_of,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("model") / "tiny") / "unet"


def unet_of(folder: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(folder).requires_grad_(False)


def inputs(n: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z, text = torch.randn(n, 16, 4, 4, generator=generator), torch.randn(n, 77, 32, generator=generator)
    return z, torch.tensor([999, 19][:n]), text, torch.tensor([1.0, 4.0][:n])


def shaken(student: LoraStudent | FullStudent) -> None:
    """Move the trainable weights away from where they begin."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.trainable.values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def trained(unet: UNet2DConditionModel) -> int:
    """How many numbers the optimiser changes."""
    return sum(p.numel() for p in unet.parameters() if p.requires_grad)


def test_lcm_lora_of_stable_diffusion_has_its_published_size() -> None:
    """67.25 million; the file that the authors published has 134.6 MB of 16-bit numbers."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD15_CONFIG / "unet"))
        add_lora(unet, SD15.lcm_lora_targets, 64)
    assert len(SD15.lcm_lora_targets) == 14
    assert trained(unet) == 67_252_224


def test_a_full_student_of_stable_diffusion_has_a_guidance_input(tmp_path: Path) -> None:
    """Its published configuration doesn't name `time_cond_proj_dim` at all."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD15_CONFIG / "unet"))
        student = FullStudent(unet)
    assert student.unet.config.time_cond_proj_dim == 256
    assert trained(student.unet) == SD15_UNET_PARAMETERS + 256 * 320
    student.unet.save_config(tmp_path)
    assert UNet2DConditionModel.load_config(tmp_path)["time_cond_proj_dim"] == 256


def test_students_begin_as_the_teacher(folder: Path) -> None:
    z, t, text, w = inputs()
    for student in (LoraStudent(unet_of(folder), SD15.lcm_lora_targets, 4), FullStudent(unet_of(folder))):
        taught = student.teacher(z, t, text, text.new_zeros(1, *text.shape[1:]))[1]
        torch.testing.assert_close(student.student(z, t, text, w), taught, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(student.target(z, t, text, w), taught, rtol=1e-4, atol=1e-5)


def test_the_teacher_is_untouched_by_the_student(folder: Path) -> None:
    z, t, text, w = inputs()
    alone = unet_of(folder)(z, t, text).sample
    for student in (LoraStudent(unet_of(folder), SD15.lcm_lora_targets, 4), FullStudent(unet_of(folder))):
        shaken(student)
        nothing = torch.zeros(1, *text.shape[1:])
        unconditional, conditional = student.teacher(z, t, text, nothing)
        torch.testing.assert_close(conditional, alone, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            unconditional, unet_of(folder)(z, t, nothing.expand_as(text)).sample, rtol=1e-5, atol=1e-6
        )
        assert not torch.allclose(student.student(z, t, text, w), alone, atol=1e-3)
        with student.teaching() as unet:
            assert torch.equal(unet(z, t, text).sample, alone)


def test_no_gradient_reaches_teacher_or_target(folder: Path) -> None:
    z, t, text, w = inputs()
    for student in (LoraStudent(unet_of(folder), SD15.lcm_lora_targets, 4), FullStudent(unet_of(folder))):
        shaken(student)
        assert not any(branch.requires_grad for branch in student.teacher(z, t, text, text[:1]))
        assert not student.target(z, t, text, w).requires_grad
        loss = (student.student(z, t, text, w) - student.target(z, t, text, w) - 1).square().mean()
        loss.backward()
        reached = {id(p) for p in student.trainable.values()}
        assert all(p.grad is not None for p in student.trainable.values())
        others = [p for p in student.unet.parameters() if id(p) not in reached]
        assert all(p.grad is None for p in others)


def test_merging_on_the_fly_is_lora(folder: Path) -> None:
    """Same outputs and gradients as PEFT's own two layers beside."""
    z, t, text, w = inputs()
    ours = LoraStudent(unet_of(folder), SD15.lcm_lora_targets, 16)  # wide enough for every layer to be merged
    theirs = unet_of(folder)
    theirs.add_adapter(
        LoraConfig(r=16, lora_alpha=16, target_modules=list(SD15.lcm_lora_targets)), adapter_name=ADAPTER
    )
    shaken(ours)
    with torch.no_grad():
        own = dict(theirs.named_parameters())
        for name, parameter in ours.trainable.items():
            own[name].copy_(parameter)
    merged = [m for m in ours.unet.modules() if "forward" in vars(m)]
    assert len(merged) > 50
    a, b = ours.student(z, t, text, w), theirs(z, t, text).sample
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    a.square().mean().backward()
    b.square().mean().backward()
    for name, parameter in ours.trainable.items():
        torch.testing.assert_close(parameter.grad, own[name].grad, rtol=1e-2, atol=1e-4)


def test_a_full_student_is_told_the_guidance(folder: Path) -> None:
    z, t, text, w = inputs()
    student = FullStudent(unet_of(folder))
    assert student.unet.config.time_cond_proj_dim == 256
    assert torch.equal(student.student(z, t, text, w), student.student(z, t, text, w + 3))  # zero at first
    shaken(student)
    assert not torch.allclose(student.student(z, t, text, w), student.student(z, t, text, w + 3), atol=1e-5)


@pytest.mark.parametrize("form", ["lora", "full"])
def test_drawing_uses_the_mean_and_puts_everything_back(folder: Path, form: str) -> None:
    z, t, text, w = inputs()
    student = (
        LoraStudent(unet_of(folder), SD15.lcm_lora_targets, 4, ema_decay=0.9)
        if form == "lora"
        else FullStudent(unet_of(folder), ema_decay=0.9)
    )
    shaken(student)
    before = {name: p.data_ptr() for name, p in student.trainable.items()}
    trained = student.student(z, t, text, w)
    with student.drawing() as unet:
        assert not torch.allclose(unet(z, t, text).sample, trained, atol=1e-4)  # the mean is where it began
    assert torch.equal(student.student(z, t, text, w), trained)
    assert {name: p.data_ptr() for name, p in student.trainable.items()} == before
    for step in range(2000):
        student.average.update(step)
    with student.drawing() as unet:
        near = unet(z, t, text).sample if form == "lora" else student.target(z, t, text, w)
    torch.testing.assert_close(near, trained, rtol=1e-3, atol=1e-4)


def test_state_round_trip(folder: Path) -> None:
    z, t, text, w = inputs()
    first, second = (LoraStudent(unet_of(folder), SD15.lcm_lora_targets, 4) for _ in range(2))
    shaken(first)
    first.average.update(100)
    with torch.no_grad():
        for group, tensors in tensors_of(second).items():
            for name, tensor in tensors.items():
                tensor.copy_(tensors_of(first)[group][name])
    assert torch.equal(first.student(z, t, text, w), second.student(z, t, text, w))
    with first.drawing() as a, second.drawing() as b:
        assert torch.equal(a(z, t, text).sample, b(z, t, text).sample)


def test_training_prompts_are_balanced_and_belong_to_their_seed() -> None:
    found = prompts.training(400, 3)
    assert found == prompts.training(400, 3)
    assert found[:50] == prompts.training(50, 3)  # more latents keep those that were drawn
    assert found != prompts.training(400, 4)
    assert 0.02 < found.count("") / 400 < 0.09
    said = [text for text in found if text]
    words = Counter(word for text in said for word in text.split(", "))
    for word in ("happy", "angry", "sad", "surprised", "calm"):
        assert 60 < words[word] < 90
    for word in ("casual style", "formal style", "artistic style", "realistic style"):
        assert 70 < words[word] < 115
    assert len(set(said)) > 0.95 * len(said)


def test_measuring_prompts_are_never_trained_on() -> None:
    asked = prompts.measuring(40)
    assert Counter(a.emotion for a in asked) == dict.fromkeys(("happy", "angry", "sad", "surprised", "calm"), 8)
    assert Counter(a.style for a in asked) == dict.fromkeys(("casual", "formal", "artistic", "realistic"), 10)
    assert all(a.emotion in a.text and f"{a.style} style" in a.text for a in asked)
    assert not {a.text for a in asked} & set(prompts.training(2000, 0))


def row(who: str, steps: int = 4, **measured: float) -> Row:
    return Row(who, steps, 1.0, 60, 0.1, 0.1, **measured)  # type: ignore[arg-type]


def test_quality_wants_obedience_and_sharpness_together() -> None:
    solver = [row("dpmpp_2m", emotion=0.5, style=0.5, sure=0.5, frechet=10.0, drift=1.0)]

    def of(sure: float, frechet: float) -> float:
        return quality([row("student", sure=sure, frechet=frechet)], solver)

    assert of(0.9, 2.0) > of(0.8, 2.0) > of(0.8, 4.0)
    assert of(0.9, 9.0) < of(0.85, 2.0)  # sure of itself and far from any picture
    assert quality([row("student", clip=30.0)], []) > quality([row("student", clip=29.0)], [])
    near, far = ([row("student", 1, drift=d), row("student", 4, drift=1.0)] for d in (0.1, 0.9))
    assert quality(near, []) > quality(far, [])
