"""What is wrong with a data set, or worth knowing, from the inspection of its splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from bpkd_search.data.duplicates import BITS, NEAR, equal, nearest
from bpkd_search.data.inspection import FORMS, Split
from bpkd_search.data.masks import shown

Level = Literal["fault", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One kind of fault, warning or note: in which splits, in words, and the samples or classes concerned."""

    level: Level
    kind: str
    splits: tuple[str, ...]
    summary: str
    items: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The finding in one line."""
        return f"{self.level}: {' and '.join(self.splits)}: {self.summary}"


def findings(splits: Sequence[Split]) -> list[Finding]:
    """Return everything found in the splits of a data set: faults first, then warnings, then notes."""
    found = [finding for split in splits for finding in _of_split(split)]
    found += [*_duplicates(splits), *_lookalikes(splits)]
    return sorted(found, key=lambda finding: ("fault", "warning", "note").index(finding.level))


def _of_split(split: Split) -> Iterator[Finding]:
    """What is found in one split alone."""

    def some(level: Level, kind: str, summary: str, items: Sequence[str]) -> Iterator[Finding]:
        if items:
            yield Finding(level, kind, (split.name,), f"{len(items)} {summary}", tuple(items))

    samples = split.samples
    yield from some("fault", "unpaired", "samples without image or mask", split.incomplete)
    yield from some("fault", "unreadable", "files cannot be used", [fault for s in samples for fault in s.faults])
    yield from some("fault", "sizes", "masks do not fit their images", [s.mismatch for s in samples if s.mismatch])
    outside = Counter[int]()
    for sample in samples:
        outside.update(dict(sample.outside))
    kind = "colours" if split.colours else "ids"
    names = [f"{s.name}: {_values(dict(s.outside), split.colours)}" for s in samples if s.outside]
    what = f"masks hold {kind} outside the classes: {_values(outside, split.colours)}"
    yield from some("fault", "outside", what, names)
    counted = [s for s in samples if s.counts and not s.outside]
    void = [s.name for s in counted if not any(s.counts[:-1])]
    if counted and len(void) == len(counted):
        text = "every pixel of every mask is ignored: nothing to train on or to measure; see ignore_id and id_map"
        yield Finding("fault", "void", (split.name,), text)
    else:
        yield from some("warning", "void", "masks hold ignored pixels alone", void)
        if split.name in ("train", "val"):
            counts = split.counts()[:-1].tolist()
            unused = [name for name, count in zip(split.class_names, counts, strict=True) if not count]
            yield from some("warning", "unused", f"of {len(counts)} classes never occur", unused)
    # Where the sides are exchanged and differ, the mask's size tells how the image was labelled.
    doubtful = [s for s in samples if s.turned in (2, 3, 4) or (s.turned >= 5 and s.size and s.size[0] == s.size[1])]
    turned = [s.name for s in doubtful if not s.mismatch]
    what = "images have an EXIF orientation, which is not applied: see that their masks are of the image as stored"
    yield from some("warning", "turned", what, turned)
    forms = defaultdict(list)
    for sample in samples:
        if sample.mode not in (None, "RGB"):
            forms[str(sample.mode)].append(sample.name)
    for mode, names in forms.items():
        yield from some("note", "form", f"images {FORMS.get(mode, f'have mode {mode}: converted to RGB')}", names)


def _values(pixels: dict[int, int], colours: bool) -> str:
    """Format values with their pixels, ten at most."""
    each = [f"{shown([value], colours=colours)} ({count:,} px)" for value, count in sorted(pixels.items())]
    return ", ".join(each[:10]) + (f" and {len(each) - 10} more" if len(each) > 10 else "")


def _duplicates(splits: Sequence[Split]) -> Iterator[Finding]:
    """Images with the same pixels, in one split and in several."""
    places = [(split.name, sample) for split in splits for sample in split.samples]
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for group in equal([sample.content for _, sample in places]):
        inside = tuple(dict.fromkeys(places[index][0] for index in group))
        groups[inside].append(" = ".join(f"{places[index][0]} {places[index][1].name}" for index in group))
    for inside, lines in groups.items():
        if len(inside) == 1:
            yield Finding("fault", "duplicate", inside, f"{len(lines)} images occur more than once", tuple(lines))
        else:
            yield Finding("fault", "leak", inside, f"{len(lines)} images are in each of them", tuple(lines))


def _lookalikes(splits: Sequence[Split]) -> Iterator[Finding]:
    """Images of different splits that look the same but are not; else how near the nearest are."""
    for first, second in combinations(splits, 2):
        others = [sample for sample in first.samples if sample.look is not None]
        same = {sample.content for sample in first.samples}
        mine = [sample for sample in second.samples if sample.look is not None and sample.content not in same]
        if not mine or not others:
            continue
        index, distance = nearest([s.look for s in mine if s.look], [s.look for s in others if s.look])
        pairs = sorted(zip(distance.tolist(), index.tolist(), mine, strict=True), key=lambda pair: pair[0])
        lines = [
            f"{second.name} {sample.name} ~ {first.name} {others[other].name}: {bits} of {BITS} bits differ"
            for bits, other, sample in pairs
        ]
        near = sum(bits <= NEAR for bits, _, _ in pairs)
        both = (first.name, second.name)
        if near:
            text = f"{near} images of {second.name} look like one of {first.name} (at most {NEAR} of {BITS} bits)"
            yield Finding("warning", "near", both, text, tuple(lines[:near]))
        else:
            yield Finding("note", "near", both, f"none look alike; the nearest: {lines[0]}")


def split_rows(splits: Sequence[Split]) -> list[tuple[str, ...]]:
    """Return a table of the splits: images, sizes, and the share of labelled pixels, with its head."""
    rows: list[tuple[str, ...]] = [("split", "images", "height x width", "labelled")]
    for split in splits:
        counts = split.counts()
        labelled = f"{counts[:-1].sum() / counts.sum():.1%}" if counts.sum() else ""
        rows.append((split.name, str(len(split.samples)), _sizes(split), labelled))
    return rows


def class_rows(splits: Sequence[Split]) -> list[tuple[str, ...]]:
    """Return a table of the classes: in how much of the labelled pixels and in how many images of each split."""
    rows: list[tuple[str, ...]] = [
        ("id", "class", *(head for split in splits for head in (split.name, "images"))),
    ]
    shares = [_shares(split) for split in splits]
    for place, name in enumerate(splits[0].class_names):
        cells = [cell for share in shares for cell in share[place]]
        rows.append((str(place), name, *cells))
    return rows


def _shares(split: Split) -> list[tuple[str, str]]:
    counts = split.counts()[:-1]
    images = [0] * len(counts)
    for sample in split.samples:
        for place, count in enumerate(sample.counts[:-1]):
            images[place] += count > 0
    total = max(1, int(counts.sum()))
    return [(f"{count / total:.2%}", str(number)) for count, number in zip(counts.tolist(), images, strict=True)]


def _sizes(split: Split) -> str:
    """The sizes of a split's masks: one, or the smallest and the largest by area."""
    sizes = sorted({s.size for s in split.samples if s.size is not None}, key=lambda size: (size[0] * size[1], size))
    if not sizes:
        return ""
    text = [f"{height}x{width}" for height, width in (sizes[0], sizes[-1])]
    return text[0] if len(sizes) == 1 else f"{text[0]} to {text[1]} ({len(sizes)} sizes)"


def as_json(splits: Sequence[Split], found: Sequence[Finding]) -> dict[str, Any]:
    """Return the whole report as JSON values; findings have all their items."""
    return {
        "classes": list(splits[0].class_names),
        "splits": {
            split.name: {
                "images": len(split.samples),
                "sizes": {
                    f"{height}x{width}": count
                    for (height, width), count in Counter(s.size for s in split.samples if s.size).most_common()
                },
                "pixels": split.counts()[:-1].tolist(),
                "ignored": int(split.counts()[-1]),
            }
            for split in splits
        },
        "findings": [
            {
                "level": each.level,
                "kind": each.kind,
                "splits": list(each.splits),
                "summary": each.summary,
                "items": list(each.items),
            }
            for each in found
        ],
    }
