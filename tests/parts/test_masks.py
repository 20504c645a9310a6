"""Label maps, carried labels and their overlap against pycocotools, and faults of annotation files by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from trainables.parts.datasets import open_folder
from trainables.parts.masks import Pairs, carried_labels, centres, intersections_over_unions, label_map, paired_by_masks
from vltune.contract import Data
from vltune.errors import BadInput

SQUARE = [[2.0, 2, 12, 2, 12, 12, 2, 12]]
TRIANGLE = [[1.0, 18, 18, 18, 10, 3]]


def write_folder(root: Path, *, pictures: int = 12, **changes: Any) -> Path:
    """A COCO folder of random pictures, 30 x 20 pixels; each shows a category, pictures 0 and 3 and 6 … the same."""
    random = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    images, captions, things = [], [], []
    for i in range(pictures):
        name = f"{i:012d}.jpg"
        folder = root / ("train2017" if i < 4 else "val2017")
        folder.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / name)
        images.append({"id": i, "file_name": name, "height": 20, "width": 30})
        captions.append({"id": i, "image_id": i, "caption": f"picture {i}"})
        things.append({"id": i, "image_id": i, "category_id": 10 + 5 * (i % 3), "segmentation": SQUARE, "iscrowd": 0})
    things.append({"id": 99, "image_id": 5, "category_id": 20, "segmentation": TRIANGLE, "iscrowd": 0})
    names = [{"id": 10, "name": "dog"}, {"id": 15, "name": "cat"}, {"id": 20, "name": "tree"}]
    for part, chosen in (("train", range(4)), ("val", range(4, pictures))):
        own = [i for i in images if i["id"] in chosen]
        texts = [c for c in captions if c["image_id"] in chosen]
        drawn = [t for t in things if t["image_id"] in chosen]
        file = root / "annotations" / f"captions_{part}2017.json"
        file.write_text(json.dumps({"images": own, "annotations": texts}))
        tree = {"images": own, "annotations": drawn, "categories": names} | changes
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(tree))
    return root


def opened(root: Path, *, size: int = 16) -> Data:
    cache = str(root / "cache")
    data = open_folder(str(root), picture_size=size, cache=cache)
    return paired_by_masks(data, str(root), picture_size=size, cache=cache)


def with_runs(rows: int = 20, columns: int = 30) -> dict[str, Any]:
    """A crowd's run lengths: columns of ten pixels on, ten off."""
    return {"counts": [10] * (2 * columns), "size": [rows, columns]}


def test_maps_are_those_of_pycocotools(tmp_path: Path) -> None:
    things = [
        {"id": 1, "image_id": 7, "category_id": 1, "segmentation": with_runs(), "iscrowd": 1, "area": 300},
        {"id": 2, "image_id": 7, "category_id": 2, "segmentation": SQUARE, "iscrowd": 0, "area": 100},
        {"id": 3, "image_id": 7, "category_id": 3, "segmentation": TRIANGLE + SQUARE, "iscrowd": 0, "area": 200},
    ]
    file = tmp_path / "instances.json"
    image = {"id": 7, "height": 20, "width": 30}
    file.write_text(json.dumps({"images": [image], "annotations": things, "categories": []}))
    coco = COCO(str(file))
    expected = np.zeros((20, 30), np.uint8)
    for number in (1, 3, 2):  # from the largest to the smallest
        expected[coco.annToMask(coco.anns[number]) > 0] = number
    given = [("here", t["category_id"], t["segmentation"]) for t in things]
    found = label_map(given, height=20, width=30, size=60)
    np.testing.assert_array_equal(found, expected.repeat(3, 0).repeat(2, 1))
    assert {*np.unique(found)} == {0, 1, 2, 3}


def test_maps_lie_over_the_pictures(tmp_path: Path) -> None:
    # A picture that is white where its mask is: resized to a square, both must agree.
    box = [[10.0, 4, 20, 4, 20, 12, 10, 12]]
    labels = label_map([("here", 1, box)], height=16, width=40, size=20)
    mask = coco_mask.decode(coco_mask.frPyObjects(box, 16, 40))[:, :, 0]
    picture = np.asarray(Image.fromarray(255 * mask).resize((20, 20), Image.Resampling.BILINEAR))
    inside, outside = picture > 200, picture < 50
    assert inside.sum() > 20
    assert (labels[inside] == 1).all()
    assert (labels[outside] == 0).all()


@pytest.mark.parametrize(
    "segmentation",
    [
        "text",
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, "5", 6]],
        {"counts": [600], "size": [30, 20]},
        {"counts": [599], "size": [20, 30]},
        {"counts": [-1, 601], "size": [20, 30]},
        {"counts": "abc", "size": [20, 30]},
        {},
    ],
)
def test_a_broken_outline_is_named(segmentation: Any) -> None:
    with pytest.raises(
        BadInput, match=r"file: annotations\[3\]: its 'segmentation' is neither polygons nor run lengths"
    ):
        label_map([("file: annotations[3]", 1, segmentation)], height=20, width=30, size=8)


def test_overlap_is_that_of_pycocotools() -> None:
    random = np.random.default_rng(0)
    carried, own = (random.integers(0, 4, (20, 20)).astype(np.uint8) for _ in range(2))
    found = intersections_over_unions(carried, own, (0, 1, 3))
    assert found.keys() == {0, 1, 3}
    for label, value in found.items():
        one, two = (coco_mask.encode(np.asfortranarray((m == label).astype(np.uint8))) for m in (carried, own))
        assert value == pytest.approx(coco_mask.iou([one], [two], [False])[0, 0])


def test_labels_are_carried_to_where_the_matches_say() -> None:
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4).repeat(3, 0).repeat(3, 1)
    np.testing.assert_array_equal(carried_labels(labels, np.arange(16)), labels)
    turned = np.rot90(np.arange(16).reshape(4, 4)).ravel()
    np.testing.assert_array_equal(carried_labels(labels, turned), np.rot90(labels))


def test_centres_are_spread_evenly() -> None:
    assert centres(9, 3).tolist() == [1, 4, 7]
    assert centres(2, 6).tolist() == [0, 0, 0, 1, 1, 1]
    assert centres(5, 5).tolist() == [0, 1, 2, 3, 4]


def test_pictures_are_paired_by_what_they_show(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "coco")
    data = opened(root)
    shown = {str(i): {10 + 5 * (i % 3)} | ({20} if i == 5 else set()) for i in range(12)}
    for name in ("validation", "test"):
        pairs = data.splits[name]
        assert isinstance(pairs, Pairs)
        own = {s.id for s in open_folder(str(root), picture_size=16, cache=str(root / "cache")).splits[name]}
        for pair in pairs:
            assert pair.other_id in own - {pair.id}
            assert shown[pair.id] & shown[pair.other_id]
            assert pair.picture is not None
            assert pair.other is not None
            assert pair.labels is not None
            labels = {"dog": 10, "cat": 15, "tree": 20}
            assert {labels[pair.categories[label]] for label in np.unique(pair.labels) if label} == shown[pair.id]
            x, y = centres(30, 16), centres(20, 16)
            square = ((x > 2) & (x < 12))[None] & ((y > 2) & (y < 12))[:, None]
            assert ((pair.labels > 0) >= square).all()
    assert [p.other_id for p in data.splits["test"]] == [p.other_id for p in opened(root).splits["test"]]
    assert not isinstance(data.splits["train"], Pairs)
    left_out = 8 - sum(len(data.splits[name]) for name in ("validation", "test"))
    told = [int(note.split()[0]) for note in data.notes if "share no category" in note]
    assert sum(told) == left_out > 0


def test_the_hash_counts_the_masks(tmp_path: Path) -> None:
    first = opened(write_folder(tmp_path / "one"))
    same = opened(write_folder(tmp_path / "two"))
    file = tmp_path / "two" / "annotations" / "instances_val2017.json"
    assert first.hash == same.hash
    file.write_text(file.read_text().replace('"category_id": 15', '"category_id": 10'))
    assert opened(tmp_path / "two").hash != first.hash


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"categories": [{"id": 10, "name": "dog"}]}, r"val2017\.json: annotations\[\d+\]: names the category (15|20)"),
        ({"categories": [{"id": 10}]}, r"val2017\.json: categories\[0\] needs 'id' and 'name'"),
        ({"images": [{"id": 4, "file_name": "a.jpg"}]}, r"images\[0\] needs 'id', 'height' and 'width'"),
        ({"annotations": [{"image_id": 4}]}, r"annotations\[0\]: needs 'image_id', 'category_id' and 'segmentation'"),
        ({"annotations": {}}, "has no list under 'annotations'"),
        ({"annotations": []}, "no two pictures of the split 'validation' share a category"),
        ({"images": []}, "no two pictures of the split 'validation' share a category"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text) as caught:
        opened(write_folder(tmp_path / "coco", **changes))
    assert "\n" not in str(caught.value)


def test_data_without_masks_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "coco")
    for file in (root / "annotations").glob("instances_*"):
        file.unlink()
    with pytest.raises(BadInput, match=r"has no instance masks \(annotations/instances_\*\.json\)"):
        opened(root)


def test_real_masks(shared_data: Path, tmp_path: Path) -> None:
    path, cache = str(shared_data / "coco-mini"), str(tmp_path)
    data = paired_by_masks(open_folder(path, picture_size=32, cache=cache), path, picture_size=32, cache=cache)
    file = shared_data / "coco-mini" / "annotations" / "instances_val2017.json"
    coco = COCO(str(file))
    categories = {c["name"]: c["id"] for c in coco.loadCats(coco.getCatIds())}
    assert len(data.splits["validation"]) > 10
    for pair in data.splits["validation"]:
        image, annotations = coco.imgs[int(pair.id)], coco.imgToAnns[int(pair.id)]
        cells = np.ix_(centres(image["height"], 32), centres(image["width"], 32))
        assert pair.labels is not None
        for label, name in pair.categories.items():
            own = [coco.annToMask(a)[cells] for a in annotations if a["category_id"] == categories[name]]
            assert ((pair.labels == label) <= np.any([np.zeros((32, 32)), *own], axis=0)).all()
        every = np.any([coco.annToMask(a)[cells] for a in annotations], axis=0)
        np.testing.assert_array_equal(pair.labels > 0, every)
