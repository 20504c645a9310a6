"""Every distributed layout, written by hand as its archive has it, is read into the same listing."""

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from trainables.parts.annotations import Finding, refuse
from trainables.parts.layouts import Listing, read_listing
from vltune.errors import BadInput, NotFound

Folder = Callable[[Mapping[str, Any]], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def write(files: Mapping[str, Any]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str | bytes) else json.dumps(content)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


def _read(root: Path) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Id -> path in the folder, split, captions."""
    listing = read_listing(str(root), refuse)
    return {e.id: (str(e.path.relative_to(root)), e.split, e.captions) for e in listing.entries}


def _faults(root: Path) -> tuple[Listing, list[Finding]]:
    findings: list[Finding] = []
    return read_listing(str(root), findings.append), findings


def test_flickr8k_csv(folder: Folder) -> None:
    root = folder(
        {
            "captions.txt": 'image,caption\na.jpg,A dog .\na.jpg,"A dog , a ""big"" one ."\na.jpg,"no" it said "yes"\n'
            "b.jpg,3, 2, 1\nb.jpg, \n",
            "Images/a.jpg": b"",
        }
    )
    assert _read(root) == {
        "a.jpg": ("Images/a.jpg", "", ("A dog .", 'A dog , a "big" one .', '"no" it said "yes"')),
        "b.jpg": ("Images/b.jpg", "", ("3, 2, 1",)),
    }
    assert read_listing(str(root), refuse).notes == ["1 empty captions dropped."]


def test_flickr8k_tokens_with_its_lists(folder: Folder) -> None:
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    tokens = [f"{name}#{i}\t{name} caption {i} ." for name in names for i in range(2)]
    root = folder(
        {
            "Flickr8k_text/Flickr8k.token.txt": "\n".join([*tokens, "2258277193_586949ec62.jpg.1#0\tstray"]),
            "Flickr8k_text/Flickr_8k.trainImages.txt": "a.jpg\n",
            "Flickr8k_text/Flickr_8k.devImages.txt": "b.jpg\n",
            "Flickr8k_text/Flickr_8k.testImages.txt": "c.jpg\n",
            "Flicker8k_Dataset/a.jpg": b"",
        }
    )
    assert _read(root) == {
        name: (f"Flicker8k_Dataset/{name}", split, (f"{name} caption 0 .", f"{name} caption 1 ."))
        for name, split in zip(names, ("train", "validation", "test"), strict=False)
    }
    notes = " ".join(read_listing(str(root), refuse).notes)
    assert "jpg.1 dropped" in notes
    assert "1 pictures are in no list" in notes


def test_flickr8k_lists_are_given_whole(folder: Folder) -> None:
    root = folder({"Flickr8k.token.txt": "a.jpg#0\tx", "Flickr_8k.trainImages.txt": "a.jpg"})
    with pytest.raises(BadInput, match=r"Flickr_8k\.devImages\.txt is missing"):
        _read(root)


def test_flickr30k_with_bars_and_the_line_that_lacks_one(folder: Folder) -> None:
    root = folder(
        {
            "flickr30k_images/results.csv": "image_name| comment_number| comment\n1.jpg| 0| Two | young guys .\n"
            "2199200615.jpg| 4   A dog runs across the grass .\n",
            "flickr30k_images/flickr30k_images/1.jpg": b"",
        }
    )
    inner = "flickr30k_images/flickr30k_images"
    assert _read(root) == {
        "1.jpg": (f"{inner}/1.jpg", "", ("Two | young guys .",)),
        "2199200615.jpg": (f"{inner}/2199200615.jpg", "", ("A dog runs across the grass .",)),
    }
    assert read_listing(str(root), refuse).name == "flickr30k"


@pytest.mark.parametrize(
    "files",
    [
        {"results_20130124.token": "1.jpg#0\tTwo guys .\n1.jpg#1\tMen .\n"},
        {"captions.txt": "image_name,comment_number,comment\n1.jpg,0,Two guys .\n1.jpg,1, Men .\n"},
    ],
)
def test_flickr30k_in_its_other_forms(folder: Folder, files: dict[str, str]) -> None:
    root = folder(files | {"flickr30k-images/1.jpg": b""})
    assert _read(root) == {"1.jpg": ("flickr30k-images/1.jpg", "", ("Two guys .", "Men ."))}


def _coco(**captions: list[str]) -> dict[str, Any]:
    """A COCO file with one picture for each name, with that number as id."""
    numbers = {name: int(name.strip("n")) for name in captions}
    return {
        "images": [{"id": i, "file_name": f"{name}.jpg"} for name, i in numbers.items()],
        "annotations": [
            {"id": 100 * numbers[name] + k, "image_id": numbers[name], "caption": text}
            for name, texts in captions.items()
            for k, text in enumerate(texts)
        ],
    }


@pytest.mark.parametrize("year", ["2014", "2017"])
@pytest.mark.parametrize("below", ["", "images/"])
def test_coco(folder: Folder, year: str, below: str) -> None:
    root = folder(
        {
            f"annotations/captions_train{year}.json": _coco(n1=["one", "eins"], n2=["two"]),
            f"annotations/captions_val{year}.json": _coco(n3=["three"]),
            f"{below}train{year}/n1.jpg": b"",
            f"{below}val{year}/n3.jpg": b"",
        }
    )
    assert _read(root) == {
        "1": (f"{below}train{year}/n1.jpg", "train", ("one", "eins")),
        "2": (f"{below}train{year}/n2.jpg", "train", ("two",)),
        "3": (f"{below}val{year}/n3.jpg", "held_out", ("three",)),
    }


def test_coco_with_one_part_alone_is_a_pool(folder: Folder) -> None:
    root = folder({"annotations/captions_val2017.json": _coco(n1=["one"]), "val2017/n1.jpg": b""})
    assert _read(root) == {"1": ("val2017/n1.jpg", "", ("one",))}


def test_coco_of_two_years_takes_the_one_with_pictures(folder: Folder) -> None:
    root = folder(
        {
            "annotations/captions_val2014.json": _coco(n1=["one"]),
            "annotations/captions_val2017.json": _coco(n2=["two"]),
            "val2014/n1.jpg": b"",
        }
    )
    assert list(_read(root)) == ["1"]
    assert read_listing(str(root), refuse).notes == ["annotations of 2014 read, those of 2017 not."]


@pytest.mark.shared_data
@pytest.mark.parametrize("part", ["train", "val"])
def test_coco_is_read_as_pycocotools_reads_it(shared_data: Path, part: str) -> None:
    from pycocotools.coco import COCO

    root = shared_data / "coco-mini"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(root / "annotations" / f"captions_{part}2017.json"))
    want = {
        (str(image["id"]), f"{part}2017/{image['file_name']}"): sorted(
            " ".join(str(annotation.get("caption")).split()) for annotation in coco.imgToAnns[image["id"]]
        )
        for image in coco.dataset["images"]
    }
    got = {
        (entry.id, str(entry.path.relative_to(root))): sorted(entry.captions)
        for entry in read_listing(str(root), refuse).entries
        if entry.path.parent.name == f"{part}2017"
    }
    assert got == want


def _karpathy(*images: tuple[str, str, str, int | None], dataset: str = "coco") -> dict[str, Any]:
    return {
        "dataset": dataset,
        "images": [
            {"filename": name, "split": split, "sentences": [{"raw": f"{name} 1"}, {"raw": f"{name} 2"}]}
            | ({"filepath": path} if path else {})
            | ({} if coco is None else {"cocoid": coco})
            for path, name, split, coco in images
        ],
    }


def test_karpathy_coco_with_pictures_of_either_year(folder: Folder) -> None:
    old = "COCO_val2014_000000000009.jpg"
    root = folder(
        {
            "dataset_coco.json": _karpathy(
                ("val2014", old, "restval", 9),
                ("train2014", "b.jpg", "train", 2),
                ("val2014", "c.jpg", "val", 3),
                ("val2014", "d.jpg", "test", 4),
            ),
            "train2017/000000000009.jpg": b"",
            "train2014/b.jpg": b"",
            "annotations/captions_train2014.json": "not even JSON",
        }
    )
    assert _read(root) == {
        "9": ("train2017/000000000009.jpg", "train", (f"{old} 1", f"{old} 2")),
        "2": ("train2014/b.jpg", "train", ("b.jpg 1", "b.jpg 2")),
        "3": ("val2014/c.jpg", "validation", ("c.jpg 1", "c.jpg 2")),
        "4": ("val2014/d.jpg", "test", ("d.jpg 1", "d.jpg 2")),
    }


def test_karpathy_takes_the_file_of_the_pictures_that_are_here(folder: Folder) -> None:
    root = folder(
        {
            "caption_datasets/dataset_coco.json": _karpathy(("val2014", "c.jpg", "val", 3)),
            "caption_datasets/dataset_flickr8k.json": _karpathy(("", "f.jpg", "test", None), dataset="flickr8k"),
            "caption_datasets/dataset_flickr30k.json": _karpathy(("", "t.jpg", "val", None), dataset="flickr30k"),
            "Images/f.jpg": b"",
            "captions.txt": "image,caption\nf.jpg,other\n",
        }
    )
    assert _read(root) == {"f.jpg": ("Images/f.jpg", "test", ("f.jpg 1", "f.jpg 2"))}
    assert read_listing(str(root), refuse).name == "flickr8k"


BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "line": ({"captions.txt": "image,caption\na.jpg,x\nno comma here\n"}, "captions.txt:3", "broken"),
    "name": ({"captions.txt": "image,caption\nnotes,x\n"}, "captions.txt:2", "broken"),
    "token": ({"results_20130124.token": "a.jpg#0\tx\na.jpg x\n"}, "token:2", "broken"),
    "bar": ({"results.csv": "image_name| comment_number| comment\na.jpg| x\n"}, "results.csv:2", "broken"),
    "twice": (
        {"results_20130124.token": "a.jpg#0\tx\na.jpg#0\ty\n"},
        "caption a.jpg#0 occurs twice, with '1'",
        "duplicate_id",
    ),
    "escape": ({"captions.txt": "image,caption\n../../a.jpg,x\n"}, "'../../a.jpg' is not a path inside", "outside"),
    "coco escape": (
        {"annotations/captions_val2017.json": {"images": [{"id": 1, "file_name": "/a.jpg"}], "annotations": []}},
        "images[0]: the picture's name '/a.jpg'",
        "outside",
    ),
    "coco ids": (
        {
            "annotations/captions_val2017.json": {
                "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}],
                "annotations": [],
            }
        },
        "picture id 1 occurs twice, with 'a.jpg' and 'b.jpg'",
        "duplicate_id",
    ),
    "coco caption ids": (
        {
            "annotations/captions_val2017.json": {
                "images": [{"id": 1, "file_name": "a.jpg"}],
                "annotations": [{"id": 5, "image_id": 1, "caption": c} for c in ("x", "y")],
            }
        },
        "caption id 5 occurs twice, with 'x' and 'y'",
        "duplicate_id",
    ),
    "coco stranger": (
        {
            "annotations/captions_val2017.json": {
                "images": [],
                "annotations": [{"id": 1, "image_id": 7, "caption": "x"}],
            }
        },
        "annotations[0]: names the picture id 7",
        "broken",
    ),
    "coco item": (
        {"annotations/captions_val2017.json": {"images": [3, {"id": True}], "annotations": [{"image_id": 1}]}},
        "images[0]: needs 'id' and 'file_name'",
        "broken",
    ),
    "karpathy split": ({"dataset_coco.json": _karpathy(("", "a.jpg", "dev", 1))}, "images[0]: needs", "broken"),
    "karpathy escape": ({"dataset_coco.json": _karpathy(("..", "a.jpg", "val", 1))}, "'../a.jpg'", "outside"),
    "karpathy ids": (
        {"dataset_coco.json": _karpathy(("", "a.jpg", "train", 1), ("", "b.jpg", "restval", 1))},
        "with 'a.jpg' and 'b.jpg'",
        "duplicate_id",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_faults_are_refused_in_one_line_or_listed(folder: Folder, case: str) -> None:
    files, text, kind = BROKEN[case]
    root = folder(files)
    with pytest.raises(BadInput) as caught:
        read_listing(str(root), refuse)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    _, findings = _faults(root)
    assert (findings[0].kind, findings[0].text) == (kind, str(caught.value))


def test_reading_goes_on_after_a_fault(folder: Folder) -> None:
    root = folder({"captions.txt": "image,caption\nbad\na.jpg,x\nworse\nb.jpg,y\n"})
    listing, findings = _faults(root)
    assert [entry.id for entry in listing.entries] == ["a.jpg", "b.jpg"]
    assert [finding.where[-2:] for finding in findings] == [":2", ":4"]


@pytest.mark.parametrize("tree", [[], {"images": []}, {"images": {}, "annotations": []}, "x"])
def test_json_of_another_form(folder: Folder, tree: Any) -> None:
    root = folder({"annotations/captions_val2017.json": json.dumps(tree)})
    with pytest.raises(BadInput, match="has no list under"):
        _read(root)


def test_no_data_here(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such folder"):
        _read(tmp_path / "no")
    with pytest.raises(BadInput, match=r"known are COCO .* Flickr8k .* Flickr30k .* Karpathy"):
        _read(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file"):
        _read(tmp_path / "file")
