"""The cross-entropy of a training step, with that of an auxiliary head."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from bpkd_search.models import Segmentor
from bpkd_search.models.heads import resize
from bpkd_search.training.forward import forward


def test_an_auxiliary_head_adds_its_own_cross_entropy_with_its_weight() -> None:
    torch.manual_seed(0)
    model = Segmentor("mobilenetv3_small_050", 4, head="fcn", channels=16, auxiliary_weight=0.3).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    labels = torch.randint(0, 4, (2, 64, 96))
    labels[:, :5] = 255
    logits, _, auxiliary = model.outputs(images)
    assert auxiliary is not None
    own, added = (
        F.cross_entropy(resize(x, (64, 96)), labels, ignore_index=255, reduction="mean") for x in (logits, auxiliary)
    )
    got, features, ce = forward(model, images, labels, 255)
    assert torch.equal(got, logits) and torch.equal(features, model(images, return_features=True)[1])
    torch.testing.assert_close(ce / (labels != 255).sum(), own + 0.3 * added)
    ce.backward()
    assert model.auxiliary is not None and model.auxiliary.classifier.weight.grad is not None
