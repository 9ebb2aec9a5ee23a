"""Pictures that a data set holds twice, and groups on both sides of a split: every figure would be too good.

A picture that lies in two splits makes every figure too good, and its name need not show it. Two are looked for: the
same pixels (sha256 of the decoded, upright picture), and almost the same ones, saved anew, brightened, resized, turned
or mirrored. For those each picture is reduced to 96 x 96 grey levels. Its perceptual hash, the signs of the 64 lowest
frequencies of the cosine transform (Zauner, 2010, "Implementation and benchmarking of perceptual image hash
functions", section 3.2.1), finds candidates in all eight positions. Light and dirt on the optics make all fields of one
microscope alike to such a hash, so a pair counts only where the fine detail correlates as well.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from renalcore.datasets.findings import Findings, Kind, shown_path
from renalcore.datasets.pictures import Split
from renalcore.errors import RenalError

_SIDE_PX: Final = 96
_HASHED_PX: Final = 32
_HASH_BITS: Final = 14
"""Bits in which two hashes of 64 may differ."""
_MARGIN_PX: Final = 6
"""Left out of a reduced picture all around: cameras write lines and marks there."""
_DETAIL_PX: Final = 2.0
"""Deviation of the Gaussian that is taken off a reduced picture, and with it light and what is out of focus."""
_ALIKE: Final = 0.8
"""Correlation of the detail from which on two pictures count as one. Fields of URISED-2K correlate with a copy of
theirs by 0.89 or more after JPEG of quality 30, half the size, more contrast with noise, or a blur of 1.5 px; two
fields with the same dirt on the camera by up to 0.64."""
_BLOCK: Final = 512


def tell_twins(
    pictures: Sequence[Path],
    sides: Sequence[Split | None],
    findings: Findings,
    *,
    read: Callable[[Path], NDArray[np.uint8]],
    done: Callable[[int, int], object],
) -> None:
    """Look at every picture; tell of those that cannot be read, and of those that are the same or almost.

    Args:
        pictures: All of a data set.
        sides: The side of each; None for one without labels.
        findings: Where it is told.
        read: Gives a picture as `(H, W, 3)` uint8 RGB.
        done: Called after each picture with how many were looked at, and how many there are.
    """
    digests: list[str] = []
    reduced: list[NDArray[np.uint8]] = []
    kept: list[int] = []
    for index, path in enumerate(pictures):
        try:
            pixels = read(path)
        except (RenalError, OSError) as error:
            findings.add(Kind.UNREADABLE_PICTURE, path, str(error), "replace it or remove it with its labels")
        else:
            digests.append(hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest())
            reduced.append(_reduced(pixels))
            kept.append(index)
        done(index + 1, len(pictures))
    places, of = [pictures[index] for index in kept], [sides[index] for index in kept]
    same = _same_pixels(digests, places, of, findings)
    _almost_same(np.array(reduced, np.uint8).reshape(-1, _SIDE_PX, _SIDE_PX), places, of, same, findings)


def tell_shared_groups(
    groups: Sequence[str], pictures: Sequence[Path], sides: Sequence[Split], findings: Findings
) -> None:
    """Tell of groups with pictures on several sides."""
    found: dict[str, dict[Split, Path]] = defaultdict(dict)
    for group, path, side in zip(groups, pictures, sides, strict=True):
        found[group].setdefault(side, path)
    for group, places in found.items():
        if len(places) > 1:
            examples = ", ".join(f"{side} ({place.name})" for side, place in places.items())
            findings.add(
                Kind.GROUP_LEAK, f"group {group}", f"has pictures in {examples}",
                "put all of a patient or sample into one split, or name the true groups in groups.csv (image,group)",
            )  # fmt: skip


def _same_pixels(
    digests: Sequence[str], places: Sequence[Path], sides: Sequence[Split | None], found: Findings
) -> set[tuple[int, int]]:
    """Tell of pictures with the same pixels; the pairs of them."""
    by_digest: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(digests):
        by_digest[digest].append(index)
    pairs = set()
    for indices in by_digest.values():
        first = indices[0]
        for other in indices[1:]:
            pairs.add((first, other))
            name = shown_path(places[first], found.folder)
            if _leaks(sides[first], sides[other]):
                message = f"({sides[other]}) is the same picture as {name} ({sides[first]})"
                found.add(Kind.LEAK, places[other], message, _REMOVE)
            else:
                found.add(Kind.PICTURE_TWICE, places[other], f"is the same picture as {name}", "remove one of the two")
    return pairs


_REMOVE: Final = "remove one of the two, or put both into one split"


def _leaks(one: Split | None, other: Split | None) -> bool:
    return one is not None and other is not None and one != other


def _almost_same(
    reduced: NDArray[np.uint8],
    places: Sequence[Path],
    sides: Sequence[Split | None],
    same: set[tuple[int, int]],
    found: Findings,
) -> None:
    """Tell of pictures in different splits that differ in little but their saving, light or position."""
    groups = {side: np.flatnonzero([each == side for each in sides]) for side in get_args(Split)}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        rows, columns = groups[one], groups[other]
        if not len(rows) or not len(columns):
            continue
        fewer, more, swapped = (columns, rows, True) if len(columns) < len(rows) else (rows, columns, False)
        told = set()
        for a, b, alike in _pairs(reduced[fewer], reduced[more]):
            first, second = (int(more[b]), int(fewer[a])) if swapped else (int(fewer[a]), int(more[b]))
            pair = (min(first, second), max(first, second))
            if pair not in same and pair not in told:
                told.add(pair)
                name = shown_path(places[first], found.folder)
                message = f"({other}) is almost the same picture as {name} ({one}), correlation {alike:.3f}"
                found.add(Kind.NEAR_LEAK, places[second], message, f"look at both: {_REMOVE}")


def _pairs(fewer: NDArray[np.uint8], more: NDArray[np.uint8]) -> Iterator[tuple[int, int, float]]:
    """Pictures of two lists that are alike in one of the eight positions, by their places in the lists."""
    hashes = _hashes(more)
    for turn in range(8):
        turned = np.rot90(fewer if turn < 4 else fewer[:, :, ::-1], turn % 4, axes=(1, 2))
        own, details = _hashes(turned), [_detail(each) for each in turned]
        for start in range(0, len(hashes), _BLOCK):
            near = np.bitwise_count(own[:, None] ^ hashes[None, start : start + _BLOCK]) <= _HASH_BITS
            for b in np.flatnonzero(near.any(0)):
                detail = _detail(more[start + b])
                for a in np.flatnonzero(near[:, b]):
                    alike = float(details[a] @ detail)
                    if alike >= _ALIKE:
                        yield int(a), int(start + b), alike


def _reduced(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8)


def _inner(reduced: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(reduced[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX], np.float32)


def _detail(reduced: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The fine detail as a vector of mean 0 and length 1, so that a product is a correlation."""
    inner = _inner(reduced)
    fine = (inner - cv2.GaussianBlur(inner, (0, 0), _DETAIL_PX)).ravel()
    fine -= fine.mean()
    detail: NDArray[np.float32] = fine / max(float(np.linalg.norm(fine)), 1e-6)
    return detail


def _hashes(reduced: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64 bits a picture: which of its lowest frequencies, the mean aside, are above their median."""
    small = [cv2.resize(_inner(each), (_HASHED_PX, _HASHED_PX), interpolation=cv2.INTER_AREA) for each in reduced]
    low = np.array([cv2.dct(each)[:8, :8] for each in small]).reshape(-1, 64)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = False
    return np.packbits(bits, axis=1).view(np.uint64).ravel()
