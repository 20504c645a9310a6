"""COCO's instance masks as label maps, pictures paired by what they show, and labels carried from one to the other."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np
from jaxtyping import Bool, Int, UInt8
from pycocotools import mask as coco_mask

from trainables.parts.annotations import items, read_json
from trainables.parts.crops import EVALUATION
from trainables.parts.layouts import TEST, VALIDATION
from trainables.parts.pictures import MAX_PIXELS
from vltune.cache import Stored, stored
from vltune.checkpoints import sha256
from vltune.contract import Data, Sample, fingerprint
from vltune.errors import BadInput

BACKGROUND = 0
"""Label of what belongs to no category."""
MAX_CATEGORIES = 255
"""What a byte can tell apart beside the background."""


@dataclass(frozen=True)
class PicturePair(Sample):
    """A picture with another one beside it, and what both show where that is known."""

    other: np.ndarray | None = None
    """uint8, (height, width, 3), RGB."""
    other_id: str = ""
    labels: np.ndarray | None = None
    """Of the picture, uint8, (height, width): 0 is background, others count the categories from 1."""
    other_labels: np.ndarray | None = None
    categories: Mapping[int, str] = field(default_factory=dict)
    """Label -> name of the category."""


class Pairs(Sequence[PicturePair]):
    """Pictures of a split, each with another that shows things of the same category."""

    def __init__(
        self, samples: Sequence[Sample], maps: Stored, pairs: Sequence[tuple[int, int]], categories: Mapping[int, str]
    ) -> None:
        self._samples, self._maps, self._pairs, self._categories = samples, maps, pairs, categories

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> PicturePair: ...
    @overload
    def __getitem__(self, index: slice) -> list[PicturePair]: ...
    def __getitem__(self, index: int | slice) -> PicturePair | list[PicturePair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        one, two = self._pairs[index]
        sample, other = self._samples[one], self._samples[two]
        return PicturePair(
            sample.id,
            sample.picture,
            sample.captions,
            other=other.picture,
            other_id=other.id,
            labels=self._maps[one],
            other_labels=self._maps[two],
            categories=self._categories,
        )


def paired_by_masks(data: Data, path: str, *, picture_size: int, cache: str) -> Data:
    """The same data, whose validation and test pictures come in pairs with label maps; its hash counts the masks.

    The partner of a picture is drawn, by its id alone, from those of its split that share a category with it; pictures
    without one are left out, and the notes say how many. Where things overlap the smaller one is seen.

    Args:
        data: a COCO folder, opened.
        path: the folder; its instance annotations lie in ``annotations/`` or beside the pictures' folders.
        picture_size: side of the label maps in pixels; they are squares, as the pictures are.
        cache: folder in which label maps are kept.

    Raises:
        BadInput: no instance annotations, broken ones, or a split in which no two pictures share a category.
    """
    files = sorted(file for folder in ("annotations", "") for file in (Path(path) / folder).glob("instances_*.json"))
    if not files:
        raise BadInput(
            f"{path}: has no instance masks (annotations/instances_*.json), without which no labels can be carried; "
            "give a COCO folder that has them."
        )
    # Validation's file is the smaller one, and mostly holds all that is asked for.
    files.sort(key=lambda file: (not file.name.startswith("instances_val"), file))
    hashes = [sha256(file) for file in files]
    splits, notes = dict(data.splits), [*data.notes]
    for name in (VALIDATION, TEST):
        samples = data.splits[name]
        ids = [samples[i].id for i in range(len(samples))]
        key = f"masks-{picture_size}-{fingerprint([ids, hashes])}"
        build = partial(_label_maps, files, ids, picture_size)
        maps = stored(cache, key, rows=len(ids), shape=(picture_size, picture_size), dtype="uint8", build=build)
        shown = [json.loads(maps.remarks[row]) for row in range(len(ids))]
        pairs = _partners(ids, shown)
        if not pairs:
            raise BadInput(f"{path}: no two pictures of the split {name!r} share a category; give more pictures.")
        if len(pairs) < len(ids):
            notes.append(f"{len(ids) - len(pairs)} {name} pictures share no category with another: left out.")
        names = {int(label): text for each in shown for label, text in each.items()}
        splits[name] = Pairs(samples, maps, pairs, MappingProxyType(names))
    content = hashlib.sha256("/".join((data.hash, *sorted(hashes))).encode()).hexdigest()
    return replace(data, hash=content, splits=splits, notes=tuple(notes))


def label_map(
    things: Iterable[tuple[str, int, Any]], *, height: int, width: int, size: int
) -> UInt8[np.ndarray, "size size"]:
    """Which category each pixel shows, resized to a square as the pictures are: each pixel takes the nearest label.

    Args:
        things: of each where it stands, for errors, its label, from 1, and COCO's ``segmentation``: polygons or run
            lengths.
        height: of the picture in pixels, as the annotations know it.
        width: likewise.
        size: side of the result in pixels.

    Raises:
        BadInput: a segmentation that is none.
    """
    drawn = []
    for where, label, segmentation in things:
        try:
            mask = _mask(segmentation, height, width)
        except BadInput as error:
            raise BadInput(f"{where}: its 'segmentation' {error}; get the file again.") from error
        drawn.append((int(mask.sum()), label, mask))
    labels = np.zeros((height, width), np.uint8)
    for _, label, mask in sorted(drawn, key=lambda thing: thing[0], reverse=True):
        labels[mask] = label
    return labels[np.ix_(centres(height, size), centres(width, size))]


def centres(size: int, count: int) -> Int[np.ndarray, " count"]:
    """The pixels, of ``size`` in a row, in which the centres of ``count`` equal cells lie."""
    return ((np.arange(count) + 0.5) * size / count).astype(np.int64)


def carried_labels(
    labels: UInt8[np.ndarray, "size size"], places: Int[np.ndarray, " positions"]
) -> UInt8[np.ndarray, "size size"]:
    """Another picture's labels, carried to this one along correspondences.

    Args:
        labels: of the other picture.
        places: for each position of this picture, on a square grid row by row, the number of its match in the other,
            on an equal grid. A position carries the label at its match's centre, to all pixels of its cell.
    """
    side = math.isqrt(len(places))
    at_centres = labels[np.ix_(centres(len(labels), side), centres(len(labels), side))]
    cells = centres(side, len(labels))
    return at_centres.ravel()[places].reshape(side, side)[np.ix_(cells, cells)]


def intersections_over_unions(
    carried: UInt8[np.ndarray, "height width"], own: UInt8[np.ndarray, "height width"], labels: Iterable[int]
) -> dict[int, float]:
    """For each label the pixels where both maps have it, as a share of those where one of them does."""
    found = {}
    for label in labels:
        one, two = carried == label, own == label
        union = int((one | two).sum())
        found[label] = int((one & two).sum()) / union if union else 1.0
    return found


def _partners(ids: Sequence[str], shown: Sequence[Mapping[str, str]]) -> list[tuple[int, int]]:
    """Numbers of pictures, each with that of another that shows a thing of the same category."""
    by_label: dict[str, list[int]] = {}
    for row, labels in enumerate(shown):
        for label in labels:
            by_label.setdefault(label, []).append(row)
    pairs = []
    for row, labels in enumerate(shown):
        others = sorted({other for label in labels for other in by_label[label]} - {row})
        if others:
            pairs.append((row, others[EVALUATION.generator(ids[row], "partner").integers(len(others))]))
    return pairs


def _label_maps(files: Sequence[Path], ids: Sequence[str], size: int) -> Iterator[tuple[np.ndarray, str]]:
    """Label maps of pictures; what is remarked of each is its categories, label -> name, as JSON.

    A picture that no file knows shows nothing, and so has no partner.
    """
    names, found = _annotations(files, ids)
    if len(names) > MAX_CATEGORIES:
        raise BadInput(f"{files[0]}: has {len(names)} categories; at most {MAX_CATEGORIES} can be told apart.")
    labels = {category: label for label, category in enumerate(sorted(names), start=1)}
    for identity in ids:
        (height, width), things = found.get(identity, ((1, 1), []))
        drawn = []
        for where, category, segmentation in things:
            if category not in labels:
                raise BadInput(
                    f"{where}: names the category {category!r}, which 'categories' does not have; correct it."
                )
            drawn.append((where, labels[category], segmentation))
        seen = label_map(drawn, height=height, width=width, size=size)
        present = {str(label): names[category] for category, label in labels.items() if (seen == label).any()}
        yield seen, json.dumps(present)


def _annotations(
    files: Sequence[Path], ids: Sequence[str]
) -> tuple[dict[int, str], dict[str, tuple[tuple[int, int], list[tuple[str, Any, Any]]]]]:
    """Names of the categories, and of each picture height, width and things: where they stand, category, outline.

    Files are read until all pictures were found: those of the training split are large.
    """
    names: dict[int, str] = {}
    found: dict[str, tuple[tuple[int, int], list[tuple[str, Any, Any]]]] = {}
    for file in files:
        missing = set(ids) - found.keys()
        if not missing:
            break
        tree = read_json(file)
        for number, category in enumerate(items(tree, "categories", file)):
            match category:
                case {"id": int(identity), "name": str(name)}:
                    names[identity] = name
                case _:
                    raise BadInput(f"{file}: categories[{number}] needs 'id' and 'name'; get the file again.")
        for number, image in enumerate(items(tree, "images", file)):
            match image:
                case {"id": identity, "height": int(height), "width": int(width)} if 0 < height * width <= MAX_PIXELS:
                    if str(identity) in missing:
                        found[str(identity)] = ((height, width), [])
                case _:
                    raise BadInput(f"{file}: images[{number}] needs 'id', 'height' and 'width'; get the file again.")
        for number, thing in enumerate(items(tree, "annotations", file)):
            where = f"{file}: annotations[{number}]"
            match thing:
                case {"image_id": identity, "category_id": category, "segmentation": segmentation}:
                    if str(identity) in missing and str(identity) in found:
                        found[str(identity)][1].append((where, category, segmentation))
                case _:
                    rule = "needs 'image_id', 'category_id' and 'segmentation'"
                    raise BadInput(f"{where}: {rule}; get the file again.")
    return names, found


def _mask(segmentation: Any, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """The pixels of polygons or run lengths.

    Raises:
        BadInput: it is neither.
    """
    match segmentation:
        case []:
            return np.zeros((height, width), bool)
        case list() if all(map(_is_polygon, segmentation)):
            runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        case {"counts": list(counts), "size": [int(rows), int(columns)]} if (
            (rows, columns) == (height, width)
            and all(type(count) is int and count >= 0 for count in counts)
            and sum(counts) == height * width
        ):
            runs = coco_mask.frPyObjects(segmentation, height, width)
        case _:
            raise BadInput("is neither polygons nor run lengths of the picture's size")
    return coco_mask.decode(runs).astype(bool)


def _is_polygon(points: Any) -> bool:
    # Four numbers would be taken for a box.
    numbers = isinstance(points, list) and all(type(p) in (int, float) and math.isfinite(p) for p in points)
    return numbers and len(points) >= 6 and len(points) % 2 == 0
