"""What a process keeps from one run to the next, and the check that it has freed the rest.

Runs share view stores and online teachers, which no run changes. A student is a copy of a network that is built and
loaded once and never trained, so that it starts from the same bits, whatever ran before. That network stays
in host memory: nothing of a finished run stays on a GPU. Compiled code is kept by `forward`.
"""

from __future__ import annotations

import copy
import gc
import warnings
from functools import lru_cache
from pathlib import Path

import torch

from bpkd_search.config.models import RunConfig
from bpkd_search.data.views import ViewStore
from bpkd_search.models import Network
from bpkd_search.models.build import build_model, pick_device
from bpkd_search.training.distill import Distillation
from bpkd_search.training.forward import forget_code
from bpkd_search.training.prepare import Prepared
from bpkd_search.training.teacher import open_teacher

# Number of initial weights that are kept, of the newest students and seeds.
STUDENTS = 4
# Upper limit of what libraries below PyTorch keep on a GPU: workspaces of cuBLAS and cuDNN.
WORKSPACES = 256 * 2**20


class ProcessCache:
    """View stores, initial weights of students, and online teachers of one process.

    A file of weights is read when its student is first used; later changes to it are not seen.
    """

    def __init__(self) -> None:
        self.stores: dict[tuple[str, str | None, str], ViewStore] = {}
        self._teachers: dict[str, Network] = {}
        self._first = lru_cache(STUDENTS)(build_model)
        self._warned = False

    def start(self, run: RunConfig, prepared: Prepared) -> Distillation:
        """Return a new run, in the same state as in a new process. Raises `UserError` if its inputs are invalid."""
        prepared = prepared.here()
        key = (prepared.store, prepared.logits, repr(prepared.data))
        if key not in self.stores:
            self.stores[key] = prepared.open()
        store, device, teacher = self.stores[key], pick_device(run.train.device), None
        if prepared.teacher and prepared.mode == "online":
            if prepared.teacher not in self._teachers:
                self._teachers[prepared.teacher] = open_teacher(run, store.class_names, Path(prepared.teacher), device)
            teacher = self._teachers[prepared.teacher]
        student = copy.deepcopy(self._first(run.student, store.num_classes, run.train.seed))
        return Distillation(run.student, run.loss, run.train, store, teacher=teacher, device=device, student=student)

    def release(self) -> int:
        """Free the rest of a finished run; returns the bytes of GPU memory that were not freed.

        Those are the allocations beyond the online teachers and the workspaces of libraries. If there are any, all
        caches are dropped, including compiled code, and one warning states what remains even then.
        """
        excess = self._excess()
        if excess:
            self.stores.clear()
            self._teachers.clear()
            self._first.cache_clear()
            forget_code()
            excess = self._excess()
        if excess and not self._warned:
            self._warned = True
            warnings.warn(
                f"{excess / 2**20:,.0f} MiB of GPU memory were not freed by a finished run; this process"
                " continues, and later trials have that much less",
                RuntimeWarning,
                stacklevel=2,
            )
        return excess

    def _excess(self) -> int:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tensors = [t for teacher in self._teachers.values() for t in (*teacher.parameters(), *teacher.buffers())]
        kept = sum(tensor.nbytes for tensor in tensors if tensor.device.type == "cuda")
        return max(0, allocated() - kept - WORKSPACES)


def allocated() -> int:
    """Return the bytes of this process's tensors on all GPUs; 0 without a GPU."""
    return sum(torch.cuda.memory_allocated(index) for index in range(torch.cuda.device_count()))
