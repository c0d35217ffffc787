"""A process that has run before gives what a fresh one gives, without its work, and lets go of what is over."""

from __future__ import annotations

import gc
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from bpkd_search.cluster.trial import DistillationTrial, TrialTask
from bpkd_search.config import RunConfig, SearchConfig
from bpkd_search.config.data import Eval
from bpkd_search.config.load import parse
from bpkd_search.config.points import run_at
from bpkd_search.errors import ResourceError
from bpkd_search.experiment.trial import Trial
from bpkd_search.models import Segmentor, save_weights
from bpkd_search.models.build import build_model
from bpkd_search.training import distill, forward, process_cache
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import evaluate
from bpkd_search.training.prepare import Prepared, prepare
from bpkd_search.training.process_cache import WORKSPACES, ProcessCache

MIB = 2**20


def base(tiny: dict[str, Any], **point: Any) -> RunConfig:
    return run_at(parse(SearchConfig, tiny, "test").run(), {k.replace("__", "."): v for k, v in point.items()})


@pytest.fixture
def prepared(tiny: dict[str, Any]) -> Prepared:
    return prepare(base(tiny), lambda line: None)


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compilation with a backend that takes no time; holds the number of graphs after each."""
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    forward.forget_code()
    monkeypatch.setattr(forward, "BACKEND", backend)
    yield graphs
    forward.forget_code()


def everything(student: Segmentor) -> dict[str, Any]:
    """All that a run could have changed in its network."""
    state: dict[str, Any] = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    state |= {f"buffer {name}": tensor.clone() for name, tensor in student.named_buffers()}
    for name, part in student.named_modules():
        hooks = [len(value or ()) for key, value in vars(part).items() if key.endswith("_hooks")]
        state[f"about {name}"] = (part.training, hooks, sorted(vars(part)))
    for name, weight in student.named_parameters():
        state[f"grad of {name}"] = (weight.requires_grad, weight.grad, len(weight._backward_hooks or ()), weight.shape)
    return state


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(first.values(), second.values(), strict=True)
    )


def test_a_second_student_is_a_fresh_one_whatever_was_done_to_the_first(
    tiny: dict[str, Any], prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = base(tiny).student
    save_weights(tmp_path / "encoder.safetensors", build_model(spec, 8, 77).encoder)
    run = base(tiny, student__weights=str(tmp_path / "encoder.safetensors"))
    kept = ProcessCache()
    first = kept.start(run, prepared)
    fresh = everything(Distillation(run.student, run.loss, run.train, first.store).student)
    assert same(everything(first.student), fresh)
    first.train_epoch()
    first.student.classifier.requires_grad_(False)
    first.student.encoder.register_forward_hook(lambda *_: None)
    first.student.eval()
    assert not same(everything(first.student), fresh)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("built or loaded again")

    (tmp_path / "encoder.safetensors").unlink()
    monkeypatch.setattr(distill, "build_model", never)
    monkeypatch.setattr("bpkd_search.models.encoders.timm.create_model", never)
    second = kept.start(run, prepared)
    assert same(everything(second.student), fresh)
    assert not {id(p) for p in first.student.parameters()} & {id(p) for p in second.student.parameters()}


def test_another_seed_or_student_is_another_network(tiny: dict[str, Any], prepared: Prepared) -> None:
    kept = ProcessCache()
    for point in ({}, {"train__seed": 3}, {"student__channels": 16}, {"student__head": "fcn"}):
        run = base(tiny, **point)
        started = kept.start(run, prepared)
        built = build_model(run.student, started.store.num_classes, run.train.seed)
        assert same(everything(started.student), everything(built))


def test_nothing_of_a_trial_outlives_it_but_first_weights_and_stores(
    tiny: dict[str, Any], prepared: Prepared, tmp_path: Path
) -> None:
    task = TrialTask(str(tmp_path), prepared, threads=1)
    trial = DistillationTrial(config=task.values_for(Trial(1, "bpkd", "sampled", base(tiny))))
    trial.step()
    run = trial.run
    assert run is not None
    over = [weakref.ref(x) for x in (run, run.optimizer, run.criterion, run.student, *run.student.parameters())]
    over += [weakref.ref(x) for state in run.optimizer.state.values() for x in state.values() if x is not None]
    assert len(over) > 100
    stores = [weakref.ref(run.store)]
    del run
    # Stopped early, by being given another trial.
    trial.reset_config(task.values_for(Trial(2, "bpkd", "sampled", base(tiny, loss__edge_width=5))))
    assert [ref for ref in over if ref() is not None] == []
    assert all(ref() is not None for ref in stores)


def test_memory_that_does_not_come_back_is_said_once_with_its_size_and_all_that_was_kept_goes(
    tiny: dict[str, Any], prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = 0
    monkeypatch.setattr(process_cache, "allocated", lambda: held)
    kept = ProcessCache()
    kept.start(base(tiny), prepared)
    held = WORKSPACES
    with warnings.catch_warnings(action="error"):
        assert kept.release() == 0
    assert kept.stores
    held = WORKSPACES + 12 * MIB
    with pytest.warns(RuntimeWarning, match="^12 MiB of GPU memory were not freed"):
        assert kept.release() == 12 * MIB
    assert not kept.stores
    with warnings.catch_warnings(action="error"):
        assert kept.release() == 12 * MIB
    # And the process goes on.
    assert kept.start(base(tiny), prepared).train_epoch()["epoch"] == 1


def test_memory_that_comes_back_with_what_was_kept_is_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ProcessCache()
    kept.stores["key"] = None  # type: ignore[index]
    monkeypatch.setattr(process_cache, "allocated", lambda: WORKSPACES + MIB if kept.stores else WORKSPACES)
    with warnings.catch_warnings(action="error"):
        assert kept.release() == 0


def test_a_second_compiled_trial_compiles_nothing_and_equals_a_fresh_one(
    tiny: dict[str, Any], prepared: Prepared, tmp_path: Path, compiling: list[int]
) -> None:
    task = TrialTask(str(tmp_path / "a"), prepared, threads=1)
    first, second = base(tiny, train__compile=True), base(tiny, train__compile=True, loss__edge_width=5, train__lr=0.01)
    trial = DistillationTrial(config=task.values_for(Trial(1, "bpkd", "sampled", first)))
    trial.step(), trial.step()
    assert len(compiling) == 1 and compiling[0] > 100  # one graph, all of the network in it
    trial.reset_config(task.values_for(Trial(2, "bpkd", "sampled", second)))
    trial.step(), trial.step()
    assert len(compiling) == 1
    weights = trial.run.student.state_dict()
    assert not any("_orig_mod" in name for name in weights)

    forward.forget_code()
    alone = ProcessCache().start(second, prepared)
    alone.train_epoch(), evaluate(alone.student, alone.store, alone.device, Eval()), alone.train_epoch()
    assert len(compiling) == 2
    assert all(torch.equal(value, alone.student.state_dict()[name]) for name, value in weights.items())


def test_compiled_code_is_made_once_a_batch_size_and_never_for_validation(
    tiny: dict[str, Any], prepared: Prepared, compiling: list[int]
) -> None:
    kept = ProcessCache()
    for batch_size, graphs in ((4, 1), (3, 2), (4, 2), (3, 2)):
        run = kept.start(base(tiny, train__compile=True, train__batch_size=batch_size), prepared)
        run.train_epoch()
        for size in (1, 2, 3, 4):
            evaluate(run.student, run.store, run.device, Eval(), rows=range(size))
        assert len(compiling) == graphs
    # Compiled code holds nothing of the runs that it served.
    over = [weakref.ref(x) for x in (run, run.optimizer, *run.student.parameters())]
    del run
    gc.collect()
    assert [ref for ref in over if ref() is not None] == []


def test_what_cannot_be_compiled_is_said_with_the_way_out(
    tiny: dict[str, Any], prepared: Prepared, monkeypatch: pytest.MonkeyPatch, compiling: list[int]
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(forward, "BACKEND", broken)
    with pytest.raises(ResourceError, match=r"train\.compile: got true.*no C\+\+ compiler.*set it to false"):
        ProcessCache().start(base(tiny, train__compile=True), prepared).train_epoch()


@pytest.mark.long
@pytest.mark.parametrize("student", [{}, {"student__head": "segformer", "student__auxiliary_weight": 0.4}])
def test_real_compiled_code_agrees_and_continues_bit_for_bit(
    tiny: dict[str, Any], prepared: Prepared, tmp_path: Path, student: dict[str, Any]
) -> None:
    """Generates and builds C++: a minute or more. The second student has dropout."""
    forward.forget_code()
    config, kept = base(tiny, train__compile=True, **student), ProcessCache()
    whole, plain = kept.start(config, prepared), kept.start(base(tiny, **student), prepared)
    assert whole.train_epoch()["loss"] == pytest.approx(plain.train_epoch()["loss"], rel=1e-2 if student else 1e-3)
    whole.save(tmp_path / "c.pt")
    whole.train_epoch()
    forward.forget_code()
    continued = kept.start(config, prepared)
    continued.load(tmp_path / "c.pt")
    continued.train_epoch()
    assert all(torch.equal(v, continued.student.state_dict()[k]) for k, v in whole.student.state_dict().items())
