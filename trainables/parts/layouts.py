"""The layouts in which caption data sets are distributed, each read into the same listing."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.parts.annotations import Cleaner, Finding, Report, inside, items, read_json, read_lines
from vltune.errors import BadInput, NotFound

TRAIN, VALIDATION, TEST = "train", "validation", "test"
HELD_OUT = "held_out"
"""Pictures to be shared out between validation and test."""
POOL = ""
"""Pictures to be shared out among all splits."""

_TEXT_FOLDERS = ("", "annotations", "caption_datasets", "Flickr8k_text", "flickr30k_images", "flickr30k")
_PICTURE_FOLDERS = (
    "Images",
    "images",
    "Flicker8k_Dataset",  # so spelt in the archive
    "Flickr8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
    "flickr30k_images/flickr30k_images",
    "flickr30k_images",
    "flickr30k-images",
    "Flickr30k/flickr30k_images",
    "",
)
_PICTURE = re.compile(r".+\.(jpe?g|png|webp|gif|bmp|tiff?)", re.IGNORECASE)
_KNOWN = (
    "COCO (annotations/captions_train2017.json with train2017/, or 2014), Flickr8k (captions.txt with Images/, or "
    "Flickr8k.token.txt with Flicker8k_Dataset/), Flickr30k (results.csv or results_20130124.token with "
    "flickr30k_images/), Karpathy's splits (dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json)"
)


@dataclass(frozen=True)
class Entry:
    """A picture of a data set, before it is opened."""

    id: str
    path: Path
    split: str
    """``train``, ``validation``, ``test``, or one of the two that are still to be shared out."""
    captions: tuple[str, ...]


@dataclass
class Listing:
    """What the annotation files of a folder say."""

    name: str
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)


def read_listing(path: str, report: Report) -> Listing:
    """Recognises the layout of a folder and reads its annotation files.

    Args:
        path: the folder.
        report: takes each fault; reading goes on without the faulty item if it returns.

    Raises:
        NotFound: there is no such folder.
        BadInput: no known layout, or an annotation file that cannot be read at all.
    """
    root = Path(path)
    if not root.exists():
        raise NotFound(f"{path}: there is no such folder; check --data.")
    if not root.is_dir():
        raise BadInput(f"{path}: is a file; give the folder of the data set.")
    for read in (_karpathy, _coco, _flickr):
        listing = read(root, report)
        if listing is not None:
            return listing
    raise BadInput(f"{path}: no known layout; known are {_KNOWN}.")


def _karpathy(root: Path, report: Report) -> Listing | None:
    names = ("dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json")
    files = [file for name in names for file in _texts(root, name)]
    if not files:
        return None
    listings = (_read_karpathy(root, file, report) for file in files)
    # The archive holds the files of all three data sets: the one meant has its pictures here.
    first = next(listings)
    if len(files) == 1 or _has_pictures(first):
        return first
    return next((listing for listing in listings if _has_pictures(listing)), first)


def _has_pictures(listing: Listing) -> bool:
    return bool(listing.entries) and listing.entries[0].path.is_file()


def _read_karpathy(root: Path, file: Path, report: Report) -> Listing:
    tree = read_json(file)
    splits = {"train": TRAIN, "restval": TRAIN, "val": VALIDATION, "test": TEST}
    cleaner, entries, seen = Cleaner(), [], {}
    flat: Path | None = None
    for number, image in enumerate(items(tree, "images", file)):
        where = f"{file}: images[{number}]"
        name, split, sentences = (_get(image, key) for key in ("filename", "split", "sentences"))
        texts = [_get(sentence, "raw") for sentence in sentences] if isinstance(sentences, list) else [None]
        captions = [text for text in texts if isinstance(text, str)]
        if not isinstance(name, str) or split not in splits or len(captions) < len(texts):
            rule = f"needs 'filename', 'split' (one of {', '.join(splits)}) and 'sentences' with 'raw'"
            report(Finding("broken", where, f"{where}: {rule}; get the file again."))
            continue
        folder = _get(image, "filepath") or ""
        relative = f"{folder}/{name}" if folder else name
        if not _held(relative, where, report):
            continue
        coco = _get(image, "cocoid")
        identity = name if coco is None else str(coco)
        if not _first(seen, (identity, splits[split]), relative, where, f"picture {identity!r}", report):
            continue
        path = root / relative
        if not folder:
            flat = flat or picture_folder(root, name)
            path = flat / name
        elif isinstance(coco, int) and not path.is_file():
            # The lists name the files of 2014; those of 2017 are the same pictures under shorter names.
            newer = (root / f"{part}2017" / f"{coco:012d}.jpg" for part in ("train", "val"))
            path = next((candidate for candidate in newer if candidate.is_file()), path)
        entries.append(Entry(identity, path, splits[split], cleaner.clean(captions)))
    name = _get(tree, "dataset")
    notes = [*cleaner.notes(), f"Splits as {file.name} gives them."]
    return Listing(name if isinstance(name, str) and name else file.stem, entries, notes)


def _coco(root: Path, report: Report) -> Listing | None:
    pattern = re.compile(r"captions_(train|val|test)(\d{4})\.json")
    found: dict[str, dict[str, Path]] = {}
    for folder in ("annotations", ""):
        for file in sorted((root / folder).glob("captions_*.json")):
            if match := pattern.fullmatch(file.name):
                found.setdefault(match[2], {}).setdefault(match[1], file)
    if not found:
        return None
    # The years share out the same pictures differently: read one, the newest that has its pictures here.
    with_pictures = [year for year in found if any((root / f"{part}{year}").is_dir() for part in found[year])]
    year = max(with_pictures or found)
    notes = [f"annotations of {year} read, those of {', '.join(sorted(set(found) - {year}))} not."] * (len(found) > 1)
    if "train" not in found[year] or len(found[year]) == 1:
        meaning = dict.fromkeys(found[year], POOL)
    else:
        meaning = {"train": TRAIN, "val": VALIDATION if "test" in found[year] else HELD_OUT, "test": TEST}
        meaning = meaning if "val" in found[year] else {"train": TRAIN, "test": HELD_OUT}
    cleaner, entries = Cleaner(), []
    for part, file in found[year].items():
        entries += _read_coco(root, file, f"{part}{year}", meaning[part], cleaner, report)
    return Listing("coco", entries, [*notes, *cleaner.notes()])


def _read_coco(root: Path, file: Path, pictures: str, split: str, cleaner: Cleaner, report: Report) -> Iterable[Entry]:
    tree = read_json(file)
    names: dict[str, str] = {}
    for number, image in enumerate(items(tree, "images", file)):
        where = f"{file}: images[{number}]"
        identity, name = _get(image, "id"), _get(image, "file_name")
        if not _is_id(identity) or not isinstance(name, str):
            report(Finding("broken", where, f"{where}: needs 'id' and 'file_name'; get the file again."))
        elif _held(name, where, report):
            _first(names, str(identity), name, where, f"picture id {identity!r}", report)
    texts: dict[str, list[str]] = {identity: [] for identity in names}
    captions: dict[str, str] = {}
    for number, annotation in enumerate(items(tree, "annotations", file)):
        where = f"{file}: annotations[{number}]"
        identity, picture, text = (_get(annotation, key) for key in ("id", "image_id", "caption"))
        if not _is_id(picture) or not isinstance(text, str):
            report(Finding("broken", where, f"{where}: needs 'image_id' and 'caption'; get the file again."))
        elif str(picture) not in texts:
            rule = f"names the picture id {picture!r}, which 'images' does not have"
            report(Finding("broken", where, f"{where}: {rule}; remove it, or get the file again."))
        elif not _is_id(identity) or _first(captions, str(identity), text, where, f"caption id {identity!r}", report):
            texts[str(picture)].append(text)
    folder = root / pictures
    if names:
        first = next(iter(names.values()))
        tried = (folder, root / "images" / pictures, root / "images", root)
        folder = next((place for place in tried if (place / first).is_file()), folder)
    return [Entry(i, folder / name, split, cleaner.clean(texts[i])) for i, name in names.items()]


def _flickr(root: Path, report: Report) -> Listing | None:
    readers: dict[str, tuple[str, Callable[[str], tuple[str, str, str] | None]]] = {
        "Flickr8k.token.txt": ("flickr8k", _token_line),
        "results_20130124.token": ("flickr30k", _token_line),
        "results.csv": ("flickr30k", _bar_line),
        "captions.txt": ("flickr8k", comma_line),
    }
    for file_name, (name, parse) in readers.items():
        for file in _texts(root, file_name):
            return _read_flickr(root, file, name, parse, report)
    return None


def _read_flickr(
    root: Path, file: Path, name: str, parse: Callable[[str], tuple[str, str, str] | None], report: Report
) -> Listing:
    texts: dict[str, list[str]] = {}
    seen: dict[tuple[str, str], str] = {}
    stray: set[str] = set()
    for number, line in read_lines(file):
        if number == 1 and re.match(r"image(_name)?\s*[,|]", line):
            parse = _numbered_line if parse is comma_line and "number" in line else parse
            continue
        where = f"{file}:{number}"
        parsed = parse(line)
        if parsed is None or not (_PICTURE.fullmatch(parsed[0]) or re.fullmatch(r".+\.jpg\.\d+", parsed[0])):
            report(Finding("broken", where, f"{where}: is not a picture's name with a caption; correct the line."))
            continue
        picture, count, text = parsed
        if not _PICTURE.fullmatch(picture):
            # Flickr8k's own list has five captions for 2258277193_586949ec62.jpg.1, which is not in its archive.
            stray.add(picture)
        elif _held(picture, where, report) and (
            not count or _first(seen, (picture, count), str(number), where, f"caption {picture}#{count}", report)
        ):
            texts.setdefault(picture, []).append(text)
    notes = [f"Captions of {picture} dropped, a known slip of {file.name}." for picture in sorted(stray)]
    folder = picture_folder(root, next(iter(texts), ""))
    cleaner = Cleaner()
    cleaned = {picture: cleaner.clean(found) for picture, found in texts.items()}
    lists = _flickr_lists(root)
    if lists:
        entries = [
            Entry(picture, folder / picture, split, cleaned.get(picture, ()))
            for split, listed in lists.items()
            for picture in listed
            if _held(picture, f"the list of {split}", report)
        ]
        left = len(set(cleaned).difference(*lists.values()))
        notes += ["Splits as the Flickr_8k lists give them."] + [f"{left} pictures are in no list: left out."] * bool(
            left
        )
    else:
        entries = [Entry(picture, folder / picture, POOL, found) for picture, found in cleaned.items()]
    name = "flickr30k" if "30k" in folder.name else name
    return Listing(name, entries, [*notes, *cleaner.notes()])


def _flickr_lists(root: Path) -> dict[str, list[str]]:
    names = {part: f"Flickr_8k.{part}Images.txt" for part in ("train", "dev", "test")}
    found = {part: _texts(root, name) for part, name in names.items()}
    if not any(found.values()):
        return {}
    for part, files in found.items():
        if not files:
            raise BadInput(f"{root}: {names[part]} is missing beside the other lists; give all three or none.")
    splits = {"train": TRAIN, "dev": VALIDATION, "test": TEST}
    return {
        splits[part]: list(dict.fromkeys(line.strip() for _, line in read_lines(files[0])))
        for part, files in found.items()
    }


def _token_line(line: str) -> tuple[str, str, str] | None:
    """``name.jpg#0<TAB>caption``."""
    match = re.fullmatch(r"([^\t#]+)#(\d+)(?:\t(.*))?", line.strip(" \t"), re.DOTALL)
    return (match[1], match[2], match[3] or "") if match else None


def _bar_line(line: str) -> tuple[str, str, str] | None:
    """``name.jpg| 0| caption``; one line of the distributed file lacks its second bar."""
    match = re.fullmatch(r"([^|]+)\|\s*(\d+)(?:\s*\||\s{2,})(.*)", line, re.DOTALL)
    return (match[1].strip(), match[2], match[3]) if match else None


def comma_line(line: str) -> tuple[str, str, str] | None:
    """``name.jpg,caption``: the caption goes to the end of the line, and is quoted where it holds commas."""
    name, comma, text = line.partition(",")
    return (name.strip(), "", _unquoted(text)) if comma else None


def _numbered_line(line: str) -> tuple[str, str, str] | None:
    """``name.jpg,0,caption``, as one archive of Flickr30k has it."""
    match = re.fullmatch(r"([^,]+),\s*(\d+)\s*,(.*)", line, re.DOTALL)
    return (match[1].strip(), match[2], _unquoted(match[3])) if match else None


def _unquoted(text: str) -> str:
    # Some archives quote no caption, so a caption may begin and end with a quotation mark of its own.
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1].replace('""', "")
    return text[1:-1].replace('""', '"') if quoted else text


def picture_folder(root: Path, name: str) -> Path:
    """The folder in which a picture of that name lies; the first that exists, if it is in none."""
    places = [root / folder for folder in _PICTURE_FOLDERS if (root / folder).is_dir()]
    return next((place for place in places if name and (place / name).is_file()), places[0])


def _texts(root: Path, name: str) -> list[Path]:
    return [root / folder / name for folder in _TEXT_FOLDERS if (root / folder / name).is_file()]


def _get(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else None


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _held(name: str, where: str, report: Report) -> bool:
    if inside(name):
        return True
    text = f"{where}: the picture's name {name!r} is not a path inside the folder; correct it."
    report(Finding("outside", where, text))
    return False


def _first(seen: dict[Any, str], key: Any, value: str, where: str, what: str, report: Report) -> bool:
    """Remembers a key; False, and a report that names both, when it is there already."""
    if key not in seen:
        seen[key] = value
        return True
    both = f"{seen[key][:60]!r} and {value[:60]!r}"
    report(Finding("duplicate_id", where, f"{where}: {what} occurs twice, with {both}; remove one."))
    return False
