"""Generated pictures of coloured shapes with five compositional captions and masks each, written as a COCO folder."""

import colorsys
import json
import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vltune.errors import BadInput

_COLOURS = {
    "red": (212, 36, 36),
    "green": (38, 152, 54),
    "blue": (38, 78, 214),
    "yellow": (244, 214, 34),
    "purple": (128, 44, 160),
    "orange": (244, 134, 24),
    "pink": (250, 142, 196),
}
_GROUNDS = {"white": (236, 236, 232), "grey": (146, 148, 150), "black": (34, 34, 38), "brown": (112, 80, 54)}
_SHAPES = ("circle", "square", "triangle", "star", "cross")
_SIZES = {"big": (0.155, 0.18), "small": (0.09, 0.105)}
_SYNONYMS = {"big": ("big", "large"), "small": ("small", "little")}
_CATEGORIES: dict[tuple[str, str], int] = {kind: number for number, kind in enumerate(product(_COLOURS, _SHAPES), 1)}
_OVERSAMPLING = 3
_CIRCLE_CORNERS = 32
_VERSION = 2
_MARK = "scenes.json"


@dataclass(frozen=True)
class _Thing:
    colour: str
    shape: str
    size: str

    @property
    def kind(self) -> tuple[str, str]:
        return self.colour, self.shape


@dataclass(frozen=True)
class _Scene:
    things: tuple[_Thing, ...]
    """From left to right, or from top to bottom."""
    across: bool
    """Side by side; else one above the other."""
    ground: str

    @property
    def composition(self) -> tuple[bool, tuple[tuple[str, str], ...]]:
        """Which kinds of things, and how they lie: what a split must not share with another."""
        return self.across, tuple(sorted(thing.kind for thing in self.things))


def write_scenes(path: str, *, pictures: int = 1600, seed: int = 0, picture_size: int = 96) -> None:
    """Writes a data set of scenes in COCO's layout, with Karpathy's splits: 75 % train, 12.5 % validation and test.

    Two or three shapes lie beside or above each other. The splits share no composition: no set of (colour, shape)
    pairs in the same arrangement. Each pair is a category of the instance masks, which are polygons. Equal arguments
    give equal bytes. A folder that this call wrote before is left as it is.

    Args:
        path: folder to write; it must not exist, be empty, or come from the same call.
        pictures: number of pictures, at least 8.
        seed: seed of everything that is drawn, 0 or more.
        picture_size: side of the pictures in pixels, 32 to 1024.

    Raises:
        BadInput: an argument out of range, or a folder with other things in it.
    """
    for name, value, low, high in (
        ("pictures", pictures, 8, 1_000_000),
        ("seed", seed, 0, 2**32 - 1),
        ("picture_size", picture_size, 32, 1024),
    ):
        if not low <= value <= high:
            raise BadInput(f"{name}={value} is out of range: it must lie in [{low}, {high}].")
    root = Path(path)
    mark = json.dumps({"version": _VERSION, "pictures": pictures, "seed": seed, "picture_size": picture_size})
    if _is_written(root, mark):
        return
    part = root.absolute().with_name(f".{root.absolute().name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        _write(part, pictures, seed, picture_size)
        (part / _MARK).write_text(mark, encoding="utf-8")
        try:
            part.rename(root)
        except OSError:
            # Another process may have written the same meanwhile; if not, the folder is somebody else's.
            if not _is_written(root, mark):
                raise
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); choose another folder.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_written(root: Path, mark: str) -> bool:
    try:
        if not root.exists() or not any(root.iterdir()):
            return False
        if (root / _MARK).read_text(encoding="utf-8") == mark:
            return True
        rule = "holds scenes of another seed, number or size, or of another version of vltune"
    except OSError:
        rule = "is not empty"
    raise BadInput(f"{root}: {rule}; choose another folder, or remove this one.")


def _write(root: Path, pictures: int, seed: int, picture_size: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = [_draw_scene(rng) for _ in range(pictures)]
    splits = _share_out(scenes, rng)
    images: dict[str, list[dict[str, Any]]] = {"train2017": [], "val2017": []}
    annotations: dict[str, list[dict[str, Any]]] = {"train2017": [], "val2017": []}
    instances: dict[str, list[dict[str, Any]]] = {"train2017": [], "val2017": []}
    karpathy = []
    sentence_id = 0
    for folder in images:
        (root / folder).mkdir(parents=True)
    for number, (scene, split) in enumerate(zip(scenes, splits, strict=True)):
        identity, folder = number + 1, "train2017" if split == "train" else "val2017"
        name = f"{identity:012d}.jpg"
        picture, outlines = _paint(scene, picture_size, rng)
        picture.save(root / folder / name, quality=92)
        instances[folder] += [
            _instance(thing, outline, identity=10 * identity + place, picture=identity, picture_size=picture_size)
            for place, (thing, outline) in enumerate(zip(scene.things, outlines, strict=True))
        ]
        images[folder].append({"id": identity, "file_name": name, "width": picture_size, "height": picture_size})
        sentences = []
        for caption in _describe(scene, rng):
            sentence_id += 1
            annotations[folder].append({"id": sentence_id, "image_id": identity, "caption": caption})
            tokens = caption.split()
            sentences.append({"tokens": tokens, "raw": caption, "imgid": number, "sentid": sentence_id})
        image = {"filepath": folder, "filename": name, "imgid": number, "cocoid": identity, "split": split}
        karpathy.append(image | {"sentids": [s["sentid"] for s in sentences], "sentences": sentences})
    (root / "annotations").mkdir()
    for folder in images:
        tree = {"info": {"description": "scenes"}, "images": images[folder], "annotations": annotations[folder]}
        (root / "annotations" / f"captions_{folder}.json").write_text(json.dumps(tree), encoding="utf-8")
        tree |= {"annotations": instances[folder], "categories": _categories()}
        (root / "annotations" / f"instances_{folder}.json").write_text(json.dumps(tree), encoding="utf-8")
    (root / "dataset_coco.json").write_text(json.dumps({"images": karpathy, "dataset": "scenes"}), encoding="utf-8")


def _categories() -> list[dict[str, Any]]:
    return [
        {"id": number, "name": f"{colour} {shape}", "supercategory": shape}
        for (colour, shape), number in _CATEGORIES.items()
    ]


def _instance(
    thing: _Thing, outline: Sequence[tuple[float, float]], *, identity: int, picture: int, picture_size: int
) -> dict[str, Any]:
    """COCO's annotation of a thing, whose outline is given in pixels of the large picture."""
    # There the centre of a pixel is a whole number; COCO counts from the corner of the first pixel.
    corners = ((np.array(outline) + 0.5) / _OVERSAMPLING).clip(0, picture_size).round(2)
    x, y = corners.T
    low, high = corners.min(0), corners.max(0)
    return {
        "id": identity,
        "image_id": picture,
        "category_id": _CATEGORIES[thing.kind],
        "segmentation": [corners.ravel().tolist()],
        "area": round(float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2, 2),
        "bbox": [*low.tolist(), *(high - low).round(2).tolist()],
        "iscrowd": 0,
    }


def _draw_scene(rng: np.random.Generator) -> _Scene:
    number = 2 if rng.random() < 0.8 else 3
    # No colour and no shape twice: "the circle" means one thing.
    colours = rng.permutation(list(_COLOURS))[:number]
    shapes = rng.permutation(_SHAPES)[:number]
    sizes = rng.choice(list(_SIZES), number)
    things = tuple(_Thing(str(c), str(s), str(z)) for c, s, z in zip(colours, shapes, sizes, strict=True))
    return _Scene(things, bool(rng.random() < 0.5), str(rng.choice(list(_GROUNDS))))


def _share_out(scenes: Sequence[_Scene], rng: np.random.Generator) -> list[str]:
    """A split for each scene; all scenes of one composition get the same."""
    groups: dict[Any, list[int]] = {}
    for number, scene in enumerate(scenes):
        groups.setdefault(scene.composition, []).append(number)
    room = {"val": len(scenes) // 8, "test": len(scenes) // 8}
    splits = ["train"] * len(scenes)
    members = list(groups.values())
    for group in rng.permutation(len(members)):
        for split, free in room.items():
            if len(members[group]) <= free:
                room[split] -= len(members[group])
                for number in members[group]:
                    splits[number] = split
                break
    return splits


def _paint(scene: _Scene, size: int, rng: np.random.Generator) -> tuple[Image.Image, list[list[tuple[float, float]]]]:
    """The picture, and the outline of each thing in pixels of a picture that is ``_OVERSAMPLING`` times as large."""
    outlines = []
    side = size * _OVERSAMPLING
    image = Image.fromarray(_ground(scene.ground, size, rng)).resize((side, side), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    places = (0.28, 0.72) if len(scene.things) == 2 else (0.2, 0.5, 0.8)
    for thing, place in zip(scene.things, places, strict=True):
        along = place + rng.uniform(-0.03, 0.03)
        beside = 0.5 + rng.uniform(-0.2, 0.2)
        x, y = (along, beside) if scene.across else (beside, along)
        colour = _shaded(_COLOURS[thing.colour], rng)
        radius = rng.uniform(*_SIZES[thing.size]) * side * (1.0 if len(scene.things) == 2 else 0.8)
        turn = rng.uniform(-0.2, 0.2)
        outlines.append(_outline(thing.shape, x * side, y * side, radius, turn))
        if thing.shape == "circle":
            draw.ellipse((x * side - radius, y * side - radius, x * side + radius, y * side + radius), fill=colour)
        else:
            draw.polygon(outlines[-1], fill=colour)
    small = np.asarray(image.reduce(_OVERSAMPLING)).astype(np.float32)
    noisy = small + rng.normal(0, 3, small.shape).astype(np.float32)
    return Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)), outlines


def _ground(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """A background with a slope of brightness in some direction, and broad stripes on some."""
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0, 16)
    steps = np.linspace(-1, 1, size, dtype=np.float32)
    along = steps[None, :] * math.cos(angle) + steps[:, None] * math.sin(angle)
    light = slope * along
    if rng.random() < 0.3:
        light = light + 5 * np.sign(np.sin(along * rng.uniform(6, 14)))
    colour = np.array(_shaded(_GROUNDS[name], rng), np.float32)
    return (colour + light[:, :, None]).clip(0, 255).astype(np.uint8)


def _shaded(colour: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    hue, light, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in colour))
    light = min(1.0, max(0.0, light + rng.uniform(-0.04, 0.04)))
    red, green, blue = colorsys.hls_to_rgb(hue, light, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _outline(shape: str, x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a shape of about the area of a circle with that radius."""
    if shape == "circle":
        corners = [(radius, i * 2 * math.pi / _CIRCLE_CORNERS) for i in range(_CIRCLE_CORNERS)]
    elif shape == "square":
        corners = [(1.25 * radius, math.pi / 4 + i * math.pi / 2) for i in range(4)]
    elif shape == "triangle":
        corners = [(1.4 * radius, -math.pi / 2 + i * 2 * math.pi / 3) for i in range(3)]
    elif shape == "star":
        corners = [((1.3 if i % 2 == 0 else 0.55) * radius, -math.pi / 2 + i * math.pi / 5) for i in range(10)]
    else:
        arm, half = 1.3 * radius, 0.42 * radius
        quarter = [(arm, -half), (arm, half), (half, half)]
        corners = [(math.hypot(u, v), math.atan2(v, u) + i * math.pi / 2) for i in range(4) for u, v in quarter]
    return [(x + r * math.cos(angle + turn), y + r * math.sin(angle + turn)) for r, angle in corners]


def _describe(scene: _Scene, rng: np.random.Generator) -> list[str]:
    """Five different captions of what is where, in other words, order and detail."""
    told = _captions_of_two(scene, rng) if len(scene.things) == 2 else _captions_of_three(scene, rng)
    return [re.sub(r"\ba (?=[aeiou])", "an ", told[i]) for i in rng.permutation(len(told))]


def _captions_of_two(scene: _Scene, rng: np.random.Generator) -> list[str]:
    first, second = scene.things
    a, b = _plain(first), _plain(second)
    pick = _Picker(rng)
    before = ("to the left of", "left of") if scene.across else ("above", "over")
    after = ("to the right of", "right of") if scene.across else ("below", "under")
    spread = "side by side" if scene.across else "one above the other"
    full, ending = _full(first, pick), _full(second, pick)
    return [
        f"a {full} {pick(*before)} a {ending}",
        pick(f"a {b} {pick(*after)} a {a}", f"a {ending} {pick(*after)} a {full}"),
        f"there is a {pick(a, full)} {pick(*before)} a {b}",
        pick(f"the {a} is {pick(*before)} the {b}", f"the {b} is {pick(*after)} the {a}"),
        pick(f"a {a} and a {b} on a {scene.ground} background", f"a {a} and a {b} {spread}"),
    ]


def _captions_of_three(scene: _Scene, rng: np.random.Generator) -> list[str]:
    first, middle, last = scene.things
    a, b, c = _plain(first), _plain(middle), _plain(last)
    pick = _Picker(rng)
    line = "row" if scene.across else "column"
    start, end = ("left", "right") if scene.across else ("top", "bottom")
    before = ("to the left of", "left of") if scene.across else ("above", "over")
    full = _full(middle, pick)
    return [
        f"a {a} a {b} and a {c} from {start} to {end}",
        pick(f"a {b} between a {a} and a {c}", f"a {full} between a {a} and a {c}"),
        f"there is a {a} {pick(*before)} a {b} and a {c}",
        pick(f"a {line} of a {a} a {b} and a {c}", f"a {a} a {full} and a {c} in a {line}"),
        f"a {a} a {b} and a {c} on a {scene.ground} background",
    ]


class _Picker:
    """Chooses one of its arguments."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def __call__(self, *choices: Any) -> Any:
        return choices[int(self._rng.integers(len(choices)))]


def _plain(thing: _Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def _full(thing: _Thing, pick: _Picker) -> str:
    return f"{pick(*_SYNONYMS[thing.size])} {thing.colour} {thing.shape}"
