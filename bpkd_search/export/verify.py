"""Verifies an exported setting: trains it once more and compares the score with its claim."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bpkd_search.config import load_run
from bpkd_search.errors import UserError
from bpkd_search.export.claimed_score import Claim, claim_of
from bpkd_search.training.inputs import Say
from bpkd_search.training.round import Diverged
from bpkd_search.training.train import train


@dataclass(frozen=True)
class Verdict:
    """The claim of a file and the score of its training; NaN if it diverged."""

    path: Path
    claim: Claim
    got: float

    @property
    def inside(self) -> bool:
        """Whether the score is in the claimed interval, including its ends."""
        return self.claim.low <= self.got <= self.claim.high

    def __str__(self) -> str:
        claim = self.claim
        got = "training that diverged" if math.isnan(self.got) else f"{self.got:.4f}"
        return (
            f"{self.path}: claimed {claim.metric} {claim.low:.4f} to {claim.high:.4f} ({claim.basis}),"
            f" got {got} with seed {claim.seed}: {'inside' if self.inside else 'outside'}"
        )


def verify(files: Sequence[Path], say: Say) -> Iterator[Verdict]:
    """Train each exported run as `bpkd-search train` does, in a temporary directory; yields one verdict each.

    A confirmed setting is trained with a fresh seed and compared with the prediction interval; another one with its
    recorded seed, and compared with its score in the search within `TOLERANCE`. Raises `ConfigError` if a file has
    no claim, before anything is trained, and what `train` raises.
    """
    runs = [load_run(path) for path in files]
    claims = [claim_of(run.provenance, str(path)) for path, run in zip(files, runs, strict=True)]
    for path, run, claim in zip(files, runs, claims, strict=True):
        seeded = run.model_copy(update={"train": run.train.model_copy(update={"seed": claim.seed})})
        say(f"verify: {path} with seed {claim.seed}")
        with TemporaryDirectory(prefix="bpkd-search-verify-") as folder:
            try:
                got = float(train(seeded, Path(folder), say)[claim.metric])
            except UserError as e:
                if not isinstance(e.__cause__, Diverged):
                    raise
                got = math.nan
        yield Verdict(path, claim, got)
