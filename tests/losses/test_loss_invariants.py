"""What must hold for every loss, whatever its formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bpkd_search.losses import FeatureMSE, bpkd_loss, cirkd_loss, cwd_loss, dist_loss, dkd_loss, kd_loss
from bpkd_search.losses.aicsd import aicsd_loss

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _bpkd(pre: bool, post: bool) -> Loss:
    return lambda s, t, y: bpkd_loss(s, t, y, edge_width=3, pre_mask=pre, post_mask=post).total


def _feature_mse(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    module = FeatureMSE(student.shape[1], teacher.shape[1])
    module.requires_grad_(False)
    module.projection.weight.copy_(torch.eye(student.shape[1])[:, :, None, None])
    return module.to(student.dtype if student.dtype == torch.float64 else torch.float32)(student, teacher, labels)


LOGIT_LOSSES: dict[str, Loss] = {
    "bpkd": _bpkd(True, True),
    "bpkd without pre-mask": _bpkd(False, True),
    "bpkd without post-mask": _bpkd(True, False),
    "bpkd without either": _bpkd(False, False),
    "kd": kd_loss,
    "kd, standardised": lambda s, t, y: kd_loss(s, t, y, standardise=True),
    "cwd": cwd_loss,
    "dist": dist_loss,
    "dkd": dkd_loss,
    "aicsd": lambda s, t, y: aicsd_loss(s, t, y).total,
}
LOSSES: dict[str, Loss] = {**LOGIT_LOSSES, "feature_mse": _feature_mse, "cirkd": cirkd_loss}
SHIFTABLE = ("kd", "dist", "dkd", "bpkd without either")

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def _case(dtype: torch.dtype = torch.float64, scale: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of two images on a 6x6 grid, labels `scale` times finer; a corner is ignored."""
    generator = torch.Generator().manual_seed(7)
    student, teacher = 2 * torch.randn(2, 2, 5, 6, 6, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, 5, (2, 2, 2), generator=generator)
    labels = labels.repeat_interleave(3, 1).repeat_interleave(3, 2)
    labels[0, 3:, 4:] = 255
    return student, teacher, labels.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


@every_loss
def test_zero_at_equal_maps(loss: Loss) -> None:
    _, teacher, labels = _case()
    assert float(loss(teacher, teacher, labels)) == pytest.approx(0.0, abs=1e-12)


@every_loss
def test_positive_at_different_maps(loss: Loss) -> None:
    assert float(loss(*_case())) > 1e-3


@every_loss
@pytest.mark.parametrize("scale", [1, 4])
def test_ignored_pixels_change_nothing(loss: Loss, scale: int) -> None:
    student, teacher, labels = _case(scale=scale)
    ignored = (labels[:, ::scale, ::scale] == 255).unsqueeze(1)
    noise = 30 * torch.randn(student.shape, generator=torch.Generator().manual_seed(8), dtype=student.dtype)
    other_student = torch.where(ignored, noise, student).requires_grad_()
    value = loss(other_student, torch.where(ignored, -noise, teacher), labels)
    torch.testing.assert_close(value, loss(student, teacher, labels))
    (gradient,) = torch.autograd.grad(value, other_student)
    assert not gradient[ignored.expand_as(gradient)].any()


@every_loss
def test_an_ignored_image_changes_nothing(loss: Loss) -> None:
    student, teacher, labels = _case()
    doubled = loss(student.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1), torch.cat([labels, labels * 0 + 255]))
    torch.testing.assert_close(doubled, loss(student, teacher, labels))


@every_loss
def test_zero_and_finite_gradient_without_labels(loss: Loss) -> None:
    student, teacher, labels = _case()
    student.requires_grad_()
    value = loss(student, teacher, torch.full_like(labels, 255))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == 0.0
    assert not gradient.any()


@every_loss
def test_gradient_is_exact_and_reaches_the_student_only(loss: Loss) -> None:
    student, teacher, labels = _case()
    student, teacher, labels = student[:, :, :3, 2:5], teacher[:, :, :3, 2:5], labels[:, 2:5, 2:5]
    teacher.requires_grad_()
    student = student.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, labels), (student,))
    loss(student, teacher, labels).backward()
    assert teacher.grad is None


@every_loss
def test_bf16_autocast_is_close_to_float32(loss: Loss) -> None:
    student, teacher, labels = _case(torch.float32)
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float(), labels), rtol=1e-2, atol=0)


@every_loss
def test_large_values_stay_finite(loss: Loss) -> None:
    student, teacher, labels = _case(torch.float32)
    student = (1e4 * student).requires_grad_()
    value = loss(student, -1e4 * teacher, labels)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("name", SHIFTABLE)
def test_a_constant_per_pixel_changes_nothing(name: str) -> None:
    student, teacher, labels = _case()
    shift = torch.linspace(-3, 3, 36, dtype=student.dtype).view(1, 1, 6, 6)
    loss = LOGIT_LOSSES[name]
    if name.startswith("bpkd"):
        loss = lambda s, t, y: bpkd_loss(s, t, y, pre_mask=False, post_mask=False).edge  # noqa: E731
    torch.testing.assert_close(loss(student + shift, teacher - shift, labels), loss(student, teacher, labels))


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_the_order_of_classes_changes_nothing(name: str) -> None:
    student, teacher, labels = _case()
    order = torch.tensor([3, 0, 4, 1, 2])
    new_id = torch.cat([order.argsort(), torch.full((251,), 255)])
    loss = LOGIT_LOSSES[name]
    permuted = loss(student[:, order], teacher[:, order], new_id[labels])
    torch.testing.assert_close(permuted, loss(student, teacher, labels))


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_a_student_on_another_grid_is_resized_to_the_teachers(name: str) -> None:
    student, teacher, labels = _case()
    resized = F.interpolate(student[:, :, :3, :4], size=(6, 6), mode="bilinear", align_corners=False)
    loss = LOGIT_LOSSES[name]
    torch.testing.assert_close(loss(student[:, :, :3, :4], teacher, labels), loss(resized, teacher, labels))


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_different_numbers_of_classes_are_an_error(name: str) -> None:
    student, teacher, labels = _case()
    with pytest.raises(ValueError, match="student has 5 classes and the teacher 4"):
        LOGIT_LOSSES[name](student, teacher[:, :4], labels)


def test_alpha_of_a_wrong_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="alpha: got 2 numbers, must be one, or one for each of 5"):
        bpkd_loss(*_case(), alpha=(1.0, 2.0))


def test_dist_at_constant_logits_is_zero_with_a_tame_gradient() -> None:
    _, _, labels = _case()
    student = torch.zeros(2, 5, 6, 6, requires_grad=True)
    value = dist_loss(student, torch.zeros(2, 5, 6, 6), labels)
    value.backward()
    assert value.item() == 0.0 and student.grad is not None and not student.grad.any()


@every_loss
def test_labels_of_another_batch_are_an_error(loss: Loss) -> None:
    student, teacher, labels = _case()
    with pytest.raises(ValueError, match=r"labels \(1, 6, 6\)"):
        loss(student, teacher, labels[:1])
