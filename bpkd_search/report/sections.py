"""Figures and remarks of the report, section by section."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pandas as pd

from bpkd_search.config.optimisation import Optimisation
from bpkd_search.config.software import teacher_title
from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.schema import BASELINE, COMPLETE, FAILED, PRUNED, REPLICATE, SAMPLED
from bpkd_search.metrics.table import HEADLINE
from bpkd_search.report import figures as draw
from bpkd_search.report import method_figures as methods
from bpkd_search.report import space_figures as space
from bpkd_search.report.parts import Section
from bpkd_search.results.analysis import best_so_far, is_replicate, rank_agreement, violates_constraint
from bpkd_search.results.estimates import ESTIMATE, with_interval
from bpkd_search.results.expected_best import remarks_on
from bpkd_search.results.importance import scope
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.show.confirmation import confirmed
from bpkd_search.show.race import raced

ONE_SEED = "One seed each: small leads may be noise."
NOTHING_FULL = "No trial has run its full budget yet."
CAMVID = (
    "CamVid's validation frames come from one sequence that is also in its training split, so scores on it are"
    " optimistic."
)
SHOWN_CLASSES = 40


def headline(board: Leaderboard, trials: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return facts on the search, in a few words, and its result, in a few sentences; `trials` with their estimates."""
    config, metric = board.config, board.metric
    counts = trials["state"].astype(object).value_counts()
    facts = [f"{len(trials)} trials: " + ", ".join(f"{n} {str(s).lower()}" for s, n in counts.items())]
    data, student, teacher = (config.get(key) or {} for key in ("data", "student", "teacher"))
    if data:
        height, width = data.get("crop") or (data.get("height"), data.get("width"))  # as older searches have it
        facts.append(f"{data.get('kind')}, crops of {height}x{width}")
    if student and teacher:
        facts.append(f"{student.get('encoder')} distilled from {teacher_title(teacher).partition(' + ')[0]}")
    if train := config.get("train"):
        # Not validated: a directory of a newer version may hold keys that this one does not know.
        facts.append(f"full budget {Optimisation.model_construct(**train).length}")
    if board.commit:
        facts.append(f"commit {board.commit}")
    lines = []
    if _has_race(board):
        lines.append(str(board.race().attrs["verdict"]))
    if board.confirmed:
        with suppress(ExperimentError):  # the section states what is missing
            lines.append(str(board.winner().attrs["verdict"]))
    mine, base = _best(trials, searched=True), _best(trials, searched=False)
    if mine is None and (trials["state"] == COMPLETE).any() and board.limited:
        lines.append("No searched setting that meets the constraints has run its full budget yet.")
    elif mine is None or base is None:
        lines.append(NOTHING_FULL if mine is None and base is None else "There is nothing to compare with yet.")
    else:
        lead = 100 * (float(mine[metric]) - float(base[metric]))
        against = f"the best baseline ({base['method']}, {base[metric]:.4f})"
        how = f"{abs(lead):.1f} points {'above' if lead > 0 else 'below'}" if round(lead, 1) else "equal to"
        lines.append(
            f"The best searched setting, trial {mine['number']}, reaches {metric} {mine[metric]:.4f}: {how} {against}."
        )
        if said := _expected(board, trials, mine):
            lines.append(said)
        drawn = int(((trials["state"] == COMPLETE) & _searched(trials)).sum())
        lines.append(
            f"{ONE_SEED} The setting was chosen as the best of {drawn} full-budget trials by this score, which"
            " is optimistic."
        )
    if data.get("kind") == "camvid":
        lines.append(CAMVID)
    return facts, lines


def sections(board: Leaderboard, trials: pd.DataFrame) -> list[Section]:
    """Return the sections between leaderboard and pictures; one that cannot be shown has a remark why.

    `trials` are those of `Leaderboard.trials` with their estimates.
    """
    parts: dict[str, Callable[[Leaderboard, pd.DataFrame], Section]] = {
        "Race": _race,
        "Confirmation": _confirmation,
        "Estimates": _estimates,
        "Best so far": _course,
        "Expected best of each method": _methods,
        "Gains over the baselines": _gains,
        "Gains by class": _classes,
        "Parallel coordinates": _parallel,
        "Slices": _slices,
        "Importance": _importance,
        "Rank correlation at the rungs": _rungs,
        "Pareto front": _front,
        "States and costs": _costs,
    }
    made = []
    for title, make in parts.items():
        try:
            made.append(make(board, trials))
        except ExperimentError as e:
            made.append(Section(title, remarks=[str(e)]))
    return [part for part in made if part.figures or part.remarks]


def _race(board: Leaderboard, trials: pd.DataFrame) -> Section:
    title = "Race"
    if not _has_race(board):
        return Section(title)
    table, notes = raced(board)
    return Section(title, tables=[(board.metric, table)] if len(table) else [], remarks=notes)


def _has_race(board: Leaderboard) -> bool:
    return board.raced and len(board.folders) == 1


def _confirmation(board: Leaderboard, trials: pd.DataFrame) -> Section:
    title = "Confirmation"
    if not board.confirmed:
        return Section(title)
    found, limits = confirmed(board)
    return Section(
        title,
        tables=[(result.metric, result.table) for result in found],
        remarks=[*(result.verdict for result in found), *limits],
    )


def _estimates(board: Leaderboard, trials: pd.DataFrame) -> Section:
    title, known = "Estimates", trials[trials[ESTIMATE].notna()]
    notes = list(trials.attrs["notes"])
    if known.empty:
        return Section(title, remarks=notes)
    full, others = known[known["state"] == COMPLETE], known[known["state"] != COMPLETE]
    shown = (full.head(draw.MANY // 3), others.head(draw.MANY // 6))
    remarks = [
        *notes,
        "Each point is a trial; the bar is the 95 % interval of its mean over seeds. Blue: full budget, where a trial"
        " below the dashed line was lucky, as far as the model can tell, and one above it unlucky. Hollow: trials that"
        " are running or were stopped, at the score of their last report.",
    ]
    if sum(map(len, shown)) < len(known):
        remarks.append(f"Of {len(known)} trials, the {len(shown[0])} best full and {len(shown[1])} others are drawn.")
    return Section(title, [draw.estimates(*shown, board.metric)], remarks)


def _course(board: Leaderboard, trials: pd.DataFrame) -> Section:
    title, metric, reports = "Best so far", board.metric, board.reports([board.metric, "gpu_seconds", "time"])
    curves = best_so_far(trials[~is_replicate(trials)], reports, metric)
    if curves.empty:
        return Section(title, remarks=[NOTHING_FULL])
    searched = best_so_far(trials[_searched(trials)], reports, metric).dropna(subset=["best"])
    base = _best(trials, searched=False)
    remarks = [
        "A point is a trial that ran its full budget, at the time that all trials had spent in training when it ended."
        " Time of validation and start-up is left out."
        + (" Hollow: trials that violate a constraint." if violates_constraint(curves).any() else "")
    ]
    level = None if base is None else float(base[metric])
    return Section(title, [draw.course(curves, searched, level, metric)], remarks)


def _methods(board: Leaderboard, trials: pd.DataFrame) -> Section:
    title, searched = "Expected best of each method", trials[trials["origin"] == SAMPLED]
    if searched["method"].astype(str).nunique() < 2:
        return Section(title)
    table = board.expected_best()
    remarks = [*table.attrs["notes"], *remarks_on(board.configs, board.metric)]
    return Section(title, [] if table.empty else methods.expected_best(table, board.metric), remarks)


def _gains(board: Leaderboard, trials: pd.DataFrame) -> Section:
    title, mine = "Gains over the baselines", _best(trials, searched=True)
    full = trials[(trials["state"] == COMPLETE) & (trials["origin"] == BASELINE)]
    if mine is None or full.empty:
        return Section(title, remarks=["Needs a searched trial and a baseline that ran their full budget."])
    measures = [name for name in dict.fromkeys([board.metric, *HEADLINE]) if pd.notna(mine[name])]
    groups = {
        str(row["method"]): {m: float(mine[m]) - float(row[m]) for m in measures if pd.notna(row[m])}
        for _, row in full.iterrows()
    }
    remark = (
        f"Trial {mine['number']}, the best searched setting, minus each baseline, in points (hundredths). edge_miou"
        " counts only pixels in the band around class changes, body_miou those outside it. "
    )
    return Section(title, [draw.gains(groups, "difference in points")], [remark + ONE_SEED])


def _classes(board: Leaderboard, trials: pd.DataFrame) -> Section:
    title = "Gains by class"
    mine, base = _best(trials, searched=True), _best(trials, searched=False)
    if mine is None or base is None:
        return Section(title, remarks=["Needs a searched trial and a baseline that ran their full budget."])
    numbers = [int(mine["number"]), int(base["number"])]
    last = board.reports(["class_iou"], numbers).groupby("number")["class_iou"].last()
    if last.isna().any() or len(last) < 2:
        return Section(title, remarks=["The reports contain no IoU by class."])
    count = len(last[numbers[0]])
    names = board.class_names or [f"class {k}" for k in range(count)]
    ious = [pd.Series(list(last[number]), index=names, dtype=float) for number in numbers]
    gap = (ious[0] - ious[1]).abs().sort_values(ascending=False)
    shown = gap.dropna().index[:SHOWN_CLASSES]
    remarks = [f"Trial {numbers[0]}, the best searched setting, minus the best baseline, {base['method']}. {ONE_SEED}"]
    never = [str(k) for k in names if ious[0][k] == 0 and ious[1][k] == 0]
    if never:
        remarks.append(f"IoU 0 in both: {', '.join(never)}.")
    if len(shown) < gap.notna().sum():
        remarks.append(f"The {len(shown)} classes of {count} that differ most.")
    return Section(title, [draw.class_gains(ious[0][shown], ious[1][shown], str(base["method"]))], remarks)


def _parallel(board: Leaderboard, trials: pd.DataFrame) -> Section:
    title, (drawn, _) = "Parallel coordinates", _drawn(trials)
    if drawn.empty:
        return Section(title, remarks=["No trial of the space has run its full budget yet."])
    remarks = [
        f"Each line is one of {len(drawn)} searched trials that ran their full budget, dark where {board.metric} is"
        " high. Drag along an axis to keep the lines through that part; click the axis to reset."
    ]
    return Section(title, [space.parallel(drawn, board.config["space"], board.metric)], remarks)


def _slices(board: Leaderboard, trials: pd.DataFrame) -> Section:
    title, (drawn, stopped) = "Slices", _drawn(trials)
    if drawn.empty and stopped.empty:
        return Section(title, remarks=["No trial of the space has ended yet."])
    base = _best(trials, searched=False)
    level = None if base is None else float(base[board.metric])
    remarks = [
        "Blue: trials that ran their full budget. Hollow: stopped early, with the score they had then, which is not"
        " comparable." + ("" if base is None else f" Dashed: the best baseline, {base['method']}.")
    ]
    limits = (draw.MANY, draw.MANY // 3)
    if len(drawn) > limits[0] or len(stopped) > limits[1]:
        remarks.append(f"Of many trials, the best {limits[0]} full and {limits[1]} stopped ones are drawn.")
    return Section(
        title, space.slices(drawn, stopped, board.config["space"], board.metric, level), remarks, narrow=True
    )


def _importance(board: Leaderboard, trials: pd.DataFrame) -> Section:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            table = board.importance()
        except RuntimeError as e:  # if all points or all scores are the same
            raise ExperimentError(f"Importance cannot be computed: {e}") from e
    notes = [*scope(table, board.metric), *(str(w.message) for w in caught if "fANOVA" in str(w.message))]
    return Section("Importance", [space.importance(table)], notes)


def _rungs(board: Leaderboard, trials: pd.DataFrame) -> Section:
    title, metric = "Rank correlation at the rungs", board.metric
    agreement = rank_agreement(trials, board.reports([metric]), metric)
    if agreement.empty:
        return Section(title, remarks=["Needs three trials that ran their full budget."])
    config = board.config
    scheduler: dict[str, Any] = config["search"].get("scheduler") or {}
    rungs, at = [], float(scheduler.get("grace") or 0)
    known = scheduler.get("name", "none") in ("asha", "hyperband") and scheduler.get("axis", "epochs") == "epochs"
    last = float(agreement["epoch"].max())
    while known and 0 < at < last:
        rungs.append(at)
        at *= float(scheduler.get("reduction") or 3)
    remarks = [
        f"Spearman's correlation of {metric} after an epoch with that at the end, over the trials that ran in full,"
        " baselines among them. Near 1, early epochs rank trials as the end does; near 0, trials are stopped on noise.",
        "Stopped trials have no end to compare with: the figure includes only the trials that were not stopped.",
    ]
    return Section(title, [draw.rank_agreement(agreement, rungs)], remarks)


def _front(board: Leaderboard, trials: pd.DataFrame) -> Section:
    title, objectives = "Pareto front", board.objectives
    if len(objectives) < 2:
        return Section(title)
    front, full = board.front(), trials[trials["state"] == COMPLETE]
    if front.empty:
        return Section(title, remarks=["No trial that meets the constraints has run its full budget yet."])
    figures = [draw.pareto(full, front, x, y) for y, x in itertools.combinations(objectives, 2)]
    remark = f"Blue: no other trial is at least as good in all of {', '.join(objectives)} and better in one. {ONE_SEED}"
    return Section(title, figures, [remark])


def _costs(board: Leaderboard, trials: pd.DataFrame) -> Section:
    method, state = trials["method"].astype(str), trials["state"].astype(str)
    counts = trials.groupby([method, state]).size().unstack(fill_value=0)
    seconds = trials["gpu_seconds"].astype(float).fillna(0.0).groupby([method, state]).sum().unstack(fill_value=0)
    size, unit = draw.time_unit(float(seconds.sum(axis=1).max()))
    order = seconds.sum(axis=1).sort_values(ascending=False).index
    figures = [
        draw.by_state(counts.loc[order], "trials", "d"),
        draw.by_state(seconds.loc[order] / size, f"{unit} in training", ".1f"),
    ]
    total, spent = float(seconds.to_numpy().sum()), seconds.sum()
    remarks = [f"{total / 3600:.2f} GPU-hours in training in all"]
    if total and PRUNED in spent:
        remarks[0] += f", {spent[PRUNED] / total:.0%} of them on trials stopped early"
    remarks[0] += "; on a machine without a GPU, these are seconds of CPU training."
    failed = trials.loc[trials["state"] == FAILED, "reason"].astype(str).value_counts()
    if len(failed):
        remarks.append("Failed: " + ", ".join(f"{n} {reason}" for reason, n in failed.items()) + ".")
    return Section("States and costs", figures, remarks)


def _expected(board: Leaderboard, trials: pd.DataFrame, mine: pd.Series) -> str:
    """Return what the model expects of the best searched trial and of the one that it expects most of."""
    chosen = ~violates_constraint(trials) & _searched(trials) & (trials["state"] == COMPLETE)
    known = trials[chosen & trials[ESTIMATE].notna()]
    if known.empty or pd.isna(mine[ESTIMATE]):
        return ""
    said = f"Its expected mean over seeds is {with_interval(mine)} (95 % interval, by the model of all trials)"
    first = known.sort_values(ESTIMATE, ascending=board.direction == "min", kind="stable").iloc[0]
    if first["number"] == mine["number"]:
        return f"{said}, the best of all estimates."
    return f"{said}; the best estimate is that of trial {first['number']}, {with_interval(first)}."


def _best(trials: pd.DataFrame, *, searched: bool) -> pd.Series | None:
    """Return the best full-budget trial that the search chose and that violates no constraint, or the best baseline.

    A baseline may violate one if all do: it is only a reference.
    """
    chosen = ~violates_constraint(trials) & _searched(trials) if searched else trials["origin"] == BASELINE
    found = trials[(trials["state"] == COMPLETE) & chosen]
    return found.iloc[0] if len(found) else None


def _searched(trials: pd.DataFrame) -> pd.Series:
    return ~trials["origin"].isin([BASELINE, REPLICATE])


def _drawn(trials: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the search's full-budget trials and its stopped ones, best first."""
    mine = trials[_searched(trials)]
    return mine[mine["state"] == COMPLETE], mine[mine["state"] == PRUNED]
