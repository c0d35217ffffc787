"""Which library and which setting changes which key."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from bpkd_search.data.keys import LIBRARIES, logits_key, teacher_key, version, views_key
from bpkd_search.models.build import TEACHER_DTYPE, autocast, teacher_precision

PARTS = ["what else", 1]


def keys() -> dict[str, str]:
    return {
        "views": views_key(PARTS),
        "teacher": teacher_key(PARTS),
        "logits": logits_key(PARTS, "cpu float32"),
    }


@pytest.mark.parametrize(
    ("module", "changed"),
    [("torchvision", {"views"}), ("PIL", {"views"}), ("timm", {"teacher", "logits"})],
)
def test_a_minor_release_changes_the_keys_of_what_it_computes_and_a_patch_none(
    monkeypatch: pytest.MonkeyPatch, module: str, changed: set[str]
) -> None:
    library = import_module(module)
    major, minor, *_ = library.__version__.split(".")
    now = keys()
    monkeypatch.setattr(library, "__version__", f"{major}.{minor}.99+cu999")
    assert keys() == now
    monkeypatch.setattr(library, "__version__", f"{major}.{int(minor) + 1}.0")
    assert {name for name, key in keys().items() if key != now[name]} == changed


def test_every_part_changes_a_key() -> None:
    made = [views_key(PARTS), views_key(["other", 1]), teacher_key(PARTS), teacher_key([])]
    made += [logits_key(PARTS, precision) for precision in ("cpu float32", "cuda float16", "cuda bfloat16")]
    assert len(set(made)) == len(made)


def test_versions_are_major_and_minor() -> None:
    for library in LIBRARIES:
        module = import_module("PIL" if library == "Pillow" else library)
        assert module.__version__.startswith(f"{version(library)}.")


@pytest.mark.parametrize("name", ["cpu", "cuda"])
@pytest.mark.parametrize("amp", [True, False])
def test_a_teachers_precision_is_that_of_a_product_under_autocast(name: str, amp: bool) -> None:
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    device = torch.device(name)
    with autocast(device, amp, dtype=TEACHER_DTYPE):
        product = torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)
    assert teacher_precision(device, amp) == f"{name} {product.dtype}".replace("torch.", "")
