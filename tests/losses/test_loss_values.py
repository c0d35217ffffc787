"""Values of the losses against slow references that visit one pixel at a time in plain Python floats."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from bpkd_search.losses import FeatureMSE, bpkd_loss, cirkd_loss, cwd_loss, dist_loss, dkd_loss, edge_masks, kd_loss
from bpkd_search.losses.aicsd import aicsd_loss, inter_class_similarity

B, C, H, W = 2, 4, 6, 7


@pytest.fixture
def case() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(B, C, H, W, generator=generator, dtype=torch.float64)
    teacher = 2 * torch.randn(B, C, H, W, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, C, (B, 3, 4), generator=generator).repeat_interleave(2, 1)
    labels = labels.repeat_interleave(2, 2)[:, :, :W].clone()
    labels[0, 4:, 5:] = 255
    return student, teacher, labels


def _log_softmax(values: list[float]) -> list[float]:
    top = max(values)
    lse = top + math.log(sum(math.exp(v - top) for v in values))
    return [v - lse for v in values]


def _kl(student: list[float], teacher: list[float], tau: float) -> float:
    s, t = _log_softmax([v / tau for v in student]), _log_softmax([v / tau for v in teacher])
    return tau**2 * sum(math.exp(q) * (q - p) for p, q in zip(s, t, strict=True))


def _valid_places(labels: Tensor, b: int) -> list[tuple[int, int]]:
    return [(y, x) for y in range(H) for x in range(W) if labels[b, y, x] != 255]


def _slow_bpkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alphas: list[float],
    tau_e: float,
    tau_b: float,
    pre: bool,
    post: bool,
) -> tuple[float, float]:
    s, t, m = student.numpy(), teacher.numpy(), edge_masks(labels, C, 3).numpy()
    edge, body, plain, places_seen = 0.0, 0.0, 0.0, 0
    for b in range(B):
        counts = [max(1, int((m[b, c] > 0).sum())) for c in range(C)]
        for y, x in product(range(H), range(W)):
            mask = m[b, :, y, x] if pre else np.ones(C)
            phi = _kl(list(s[b, :, y, x] * mask), list(t[b, :, y, x] * mask), tau_e)
            edge += sum(alphas[c] / counts[c] * phi * m[b, c, y, x] for c in range(C)) / B
            if labels[b, y, x] != 255:
                plain += phi
                places_seen += 1
        for c in range(C):
            places = _valid_places(labels, b)
            body_s = [s[b, c, y, x] * (1 - m[b, c, y, x]) for y, x in places]
            body_t = [t[b, c, y, x] * (1 - m[b, c, y, x]) for y, x in places]
            body += _kl(body_s, body_t, tau_b) / C / B
    return (edge if post else sum(alphas) / C * plain / places_seen), body


@pytest.mark.parametrize(("pre", "post"), product([True, False], repeat=2))
@pytest.mark.parametrize("alpha", [2.0, (0.5, 1.0, 2.0, 3.0)])
def test_bpkd_equals_the_formula_in_every_mask_corner(
    case: tuple[Tensor, Tensor, Tensor], pre: bool, post: bool, alpha: float | tuple[float, ...]
) -> None:
    alphas = [alpha] * C if isinstance(alpha, float) else list(alpha)
    edge, body = _slow_bpkd(*case, alphas, 1.5, 3.0, pre, post)
    terms = bpkd_loss(
        *case,
        edge_width=3,
        edge_weight=5.0,
        body_weight=7.0,
        alpha=alpha,
        edge_temperature=1.5,
        body_temperature=3.0,
        pre_mask=pre,
        post_mask=post,
    )
    assert [float(v) for v in terms] == pytest.approx([5 * edge + 7 * body, edge, body], rel=1e-9)


def test_bpkd_without_filters_is_alpha_times_kd(case: tuple[Tensor, Tensor, Tensor]) -> None:
    edge = bpkd_loss(*case, edge_temperature=2.0, pre_mask=False, post_mask=False).edge
    torch.testing.assert_close(edge, 2.0 * kd_loss(*case, temperature=2.0))


def test_kd_is_the_mean_divergence_of_labelled_pixels(case: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, labels = case
    each = [
        _kl(student[b, :, y, x].tolist(), teacher[b, :, y, x].tolist(), 2.0)
        for b in range(B)
        for y, x in _valid_places(labels, b)
    ]
    assert float(kd_loss(*case, weight=3.0, temperature=2.0)) == pytest.approx(3 * sum(each) / len(each))


def test_a_coarse_location_counts_by_its_labelled_share() -> None:
    student, teacher = (
        torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]]),
        torch.tensor([[[[0.0, 0.0]], [[0.0, 2.0]]]]),
    )
    labels = torch.tensor([[[0, 255, 0, 0], [255, 255, 0, 0]]])
    left, right = _kl([1.0, 0.0], [0.0, 0.0], 1.0), _kl([0.0, 0.0], [0.0, 2.0], 1.0)
    assert float(kd_loss(student, teacher, labels)) == pytest.approx((left / 4 + right) / 1.25, rel=1e-6)


def test_cwd_is_the_mean_divergence_of_classes(case: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, labels = case
    each = []
    for b, c in product(range(B), range(C)):
        places = _valid_places(labels, b)
        maps = [[float(z[b, c, y, x]) for y, x in places] for z in (student, teacher)]
        each.append(_kl(*maps, 4.0))
    assert float(cwd_loss(*case)) == pytest.approx(3 * sum(each) / len(each))


def test_dist_is_one_minus_pearson(case: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, labels = case
    keep = (labels != 255).numpy()
    s, t = (z.softmax(1).movedim(1, -1).numpy()[keep] for z in (student / 2, teacher / 2))
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
    value = dist_loss(*case, inter_weight=2.0, intra_weight=3.0, temperature=2.0)
    assert float(value) == pytest.approx(4 * (2 * inter + 3 * intra), rel=1e-9)


def test_dkd_parts_add_up_to_kd(case: tuple[Tensor, Tensor, Tensor]) -> None:
    """KL = TCKD + (1 - p_target) NCKD, the identity the method starts from."""
    student, teacher, labels = case
    total = []
    for b in range(B):
        for y, x in _valid_places(labels, b):
            target = int(labels[b, y, x])
            s, t = (z[b, :, y, x].tolist() for z in (student, teacher))
            rest = [c for c in range(C) if c != target]
            p_target = math.exp(_log_softmax([v / 4 for v in t])[target])
            nckd = _kl([s[c] for c in rest], [t[c] for c in rest], 4.0)
            total.append(0.5 * (_kl(s, t, 4.0) - (1 - p_target) * nckd) + 8.0 * nckd)
    assert float(dkd_loss(*case, alpha=0.5)) == pytest.approx(sum(total) / len(total), rel=1e-9)


def test_feature_mse_of_projected_features(case: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, labels = case
    loss = FeatureMSE(C, 3).double()
    kernel = loss.projection.weight.detach().numpy()[:, :, 0, 0]
    errors = [
        np.mean((kernel @ student[b, :, y, x].numpy() - teacher[b, :3, y, x].numpy()) ** 2)
        for b in range(B)
        for y, x in _valid_places(labels, b)
    ]
    assert loss(student, teacher[:, :3], labels, weight=2.0).item() == pytest.approx(2 * np.mean(errors))


def test_cirkd_over_all_pairs_of_images(case: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, labels = case

    def nodes(features: Tensor, b: int) -> list[np.ndarray]:
        vectors = [features[b, :, y, x].numpy() for y, x in _valid_places(labels, b)]
        return [v / np.linalg.norm(v) for v in vectors]

    pairs = []
    for a, b in product(range(B), repeat=2):
        rows = []
        for s, t in zip(nodes(student, a), nodes(teacher, a), strict=True):
            similar_s = [float(s @ o) / 0.1 for o in nodes(student, b)]
            similar_t = [float(t @ o) / 0.1 for o in nodes(teacher, b)]
            rows.append(_kl(similar_s, similar_t, 1.0))
        pairs.append(np.mean(rows))
    assert float(cirkd_loss(student, teacher, labels)) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("tau", (1.0, 3.0))
def test_aicsd_compares_the_classes_spatial_distributions_pair_by_pair(case, tau: float) -> None:
    student, teacher, labels = case

    def similarities(logits: Tensor, b: int) -> list[list[float]]:
        logs = [_log_softmax([float(logits[b, c, y, x]) / tau for y, x in _valid_places(labels, b)]) for c in range(C)]
        return [[sum(math.exp(p) * (p - q) for p, q in zip(one, two, strict=True)) for two in logs] for one in logs]

    squares = []
    for b in range(B):
        s, t = similarities(student, b), similarities(teacher, b)
        squares.append(sum((s[c][d] - t[c][d]) ** 2 for c, d in product(range(C), repeat=2)) / C**2)
    terms = aicsd_loss(*case, ics_weight=2.0, pixel_weight=3.0, temperature=tau)
    assert float(terms.ics) == pytest.approx(sum(squares) / B, rel=1e-9)
    assert float(terms.pixel) == pytest.approx(float(kd_loss(*case, temperature=tau)), rel=1e-12)
    assert float(terms.total) == pytest.approx(2 * float(terms.ics) + 3 * float(terms.pixel))
    support = (labels != 255)[:, None]
    torch.testing.assert_close(
        inter_class_similarity(teacher, support, tau)[1], torch.tensor(similarities(teacher, 1), dtype=torch.float64)
    )


def test_kd_on_standardised_logits_is_that_of_z_scores_over_classes(case) -> None:
    student, teacher, labels = case
    scored = [(x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True) for x in (student, teacher)]
    expected = kd_loss(*scored, labels, temperature=2.0)
    torch.testing.assert_close(kd_loss(*case, temperature=2.0, standardise=True), expected)
    # A student that gives the teacher's logits in another range, which plain KD punishes, has nothing to learn.
    rescaled = 3 * teacher - 1
    assert float(kd_loss(rescaled, teacher, labels, standardise=True)) == pytest.approx(0, abs=1e-12)
    assert float(kd_loss(rescaled, teacher, labels)) > 0.01
