"""The `train:` block: the length of a run, its learning rate, and how its weights are updated."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from bpkd_search.blocks import Block, Matching

# Keys that version 0.1.0 did not have.
_LATER = {
    "iterations",
    "validate_every",
    "accumulate",
    "head_lr",
    "min_lr",
    "warmup_iterations",
    "batchnorm",
    "batchnorm_momentum",
    "deterministic",
}
# What says how long a run is and how often it reports: the same for every trial of a search.
LENGTH = ("epochs", "iterations", "gpu_seconds", "validate_every", "checkpoint_seconds")


class Optimisation(Block):
    """How weights are trained, in iterations: one update of the weights each, from `accumulate` batches.

    A run lasts `epochs`, or `iterations`; it is validated, and reports, after each pass over the images or every
    `validate_every` iterations. The learning rate rises over `warmup` epochs or `warmup_iterations` to `lr`, then
    decays to `min_lr` by `(1 - t)^power`. With `gpu_seconds`, a run lasts as many whole rounds of training and
    validation as come nearest to that time inside training, whatever `epochs` is, and the rate decays with the time
    spent: runs of expensive and cheap losses then cost the same.

    With `accumulate: k`, each of the k batches counts with its share of the labelled pixels. The gradient is that of
    one batch of `k * batch_size` images, up to rounding, for means over pixels, such as cross-entropy and KD. Means
    over images, such as BPKD and CWD, differ where more of one image is labelled than of another; BatchNorm and CIRKD
    see single batches. `compile` uses `torch.compile`, once per process, student and batch size;
    `graphs` also records each run's step on a GPU as a CUDA graph, which one launch starts. Neither is counted as
    training. A step that cannot be recorded, such as one with a student or loss of your own or with a parameter of the
    loss that changes, trains without a graph, which a warning says. Results equal those without up to rounding.
    """

    epochs: int | None = Field(default=8, ge=1, description="Passes over the training images.")
    iterations: int | None = Field(default=None, ge=1, description="Updates of the weights, instead of `epochs`.")
    gpu_seconds: float | None = Field(
        default=None, gt=0, description="Time inside training that a run gets, instead of `epochs`."
    )
    validate_every: int | None = Field(
        default=None,
        ge=1,
        description="Iterations between validations, with `iterations` or `gpu_seconds`; default: one pass.",
    )
    checkpoint_seconds: float = Field(
        default=600.0, gt=0, description="Seconds between checkpoints that are written before a validation is due."
    )
    batch_size: int = Field(default=8, ge=1, description="Images per batch.")
    accumulate: int = Field(default=1, ge=1, description="Batches per iteration.")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="The optimizer.")
    lr: float = Field(default=0.05, gt=0, description="Peak learning rate.")
    head_lr: float = Field(default=1.0, gt=0, description="Factor of the learning rate of head and classifier.")
    min_lr: float = Field(default=0.0, ge=0, description="Learning rate at the end.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(default=5e-4, ge=0, description="Weight decay.")
    power: float = Field(default=0.9, ge=0, description="Exponent of the polynomial decay.")
    warmup: float = Field(default=0.0, ge=0, description="Epochs over which the rate rises to its peak.")
    warmup_iterations: int = Field(default=0, ge=0, description="The same in iterations, instead of `warmup`.")
    grad_clip: float | None = Field(default=None, gt=0, description="Largest norm of the gradient.")
    batchnorm: Literal["train", "frozen"] = Field(
        default="train",
        description="BatchNorm by the statistics of a batch, or by those that came with the first weights.",
    )
    batchnorm_momentum: float | None = Field(
        default=None, gt=0, le=1, description="Share of a batch in the running statistics; default: the network's."
    )
    amp: Literal["auto", "off"] = Field(default="auto", description="Mixed precision where the device has it.")
    compile: StrictBool | Literal["graphs"] = Field(
        default=False, description="Train through `torch.compile`; with `graphs` on a GPU as CUDA graphs, too."
    )
    deterministic: StrictBool = Field(
        default=False, description="The same weights on every run on a GPU of one kind; slower."
    )
    device: Annotated[str, Matching(r"auto|cpu|cuda(:[0-9]+)?", "auto, cpu, cuda, or cuda:N")] = Field(
        default="auto", description="Where it trains."
    )
    seed: int = Field(default=0, ge=0, description="Seed of initial weights and of the order of images.")

    @model_validator(mode="before")
    @classmethod
    def _epochs_by_default(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("iterations") is not None:
            return {"epochs": None, **value}
        return value

    @model_validator(mode="after")
    def _one_length(self) -> Optimisation:
        if self.iterations is not None and self.epochs is not None:
            raise ValueError(f"got epochs {self.epochs} and iterations {self.iterations}: set one, the other to null")
        if self.iterations is None and self.epochs is None:
            raise ValueError("epochs: got null, set epochs or iterations")
        return self

    @property
    def length(self) -> str:
        """The length of a run in words."""
        if self.gpu_seconds is not None:
            return f"{self.gpu_seconds:g} seconds"
        return f"{self.epochs} epochs" if self.iterations is None else f"{self.iterations} iterations"

    def rounds(self, steps: int | None = None) -> int:
        """Number of validations of a run, each a report; with `gpu_seconds`, that of its epochs.

        `steps` is the number of iterations in a pass over the images; only a run of `iterations` without
        `validate_every` needs it.
        """
        if self.iterations is None:
            assert self.epochs is not None
            return self.epochs
        every = self.validate_every or steps
        if every is None:
            raise ValueError("train.validate_every: is required here, the number of images is not known")
        return math.ceil(self.iterations / every)

    def identity(self) -> dict[str, Any]:
        """What determines the trained weights, to be hashed.

        A key that version 0.1.0 did not have is only in it where it is not the default, so that weights which were
        trained before are found.
        """
        values = self.model_dump(exclude={"device", "checkpoint_seconds"})
        default = type(self).model_fields
        return {key: value for key, value in values.items() if key not in _LATER or value != default[key].default}
