"""A few evaluated samples of a trial, as files that a person can look at."""

import html
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vltune.contract import Sample

COUNT = 10

_PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Samples</title><style>
body{{font:16px/1.4 system-ui,sans-serif;margin:1.5rem;display:grid;gap:1.2rem;color-scheme:light dark;
grid-template-columns:repeat(auto-fill,minmax(15rem,1fr))}}
figure{{margin:0}}img{{width:100%;border-radius:6px}}b{{display:block;margin:.4rem 0 .2rem}}
ul{{margin:0;padding-left:1.1rem;opacity:.7;font-size:.85em}}</style>
{figures}"""


def write_samples(folder: Path, samples: Sequence[Sample], said: Sequence[str]) -> None:
    """Writes pictures, ``samples.json`` and a page ``samples.html`` that needs nothing but the pictures beside it.

    Args:
        folder: where to; made if it is not there.
        samples: those to show.
        said: what the model said about them, in the same order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown, figures = [], []
    for number, (sample, text) in enumerate(zip(samples, said, strict=True)):
        entry = {"id": sample.id, "caption": text, "references": list(sample.captions)}
        picture = ""
        if sample.picture is not None:
            entry["picture"] = f"{number:02d}.jpg"
            Image.fromarray(sample.picture).save(folder / entry["picture"], quality=90)
            picture = f'<img src="{entry["picture"]}" alt="">'
        shown.append(entry)
        references = "".join(f"<li>{html.escape(text)}</li>" for text in sample.captions)
        caption = html.escape(text)
        figures.append(f"<figure>{picture}<figcaption><b>{caption}</b><ul>{references}</ul></figcaption></figure>")
    (folder / "samples.json").write_text(json.dumps(shown, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "samples.html").write_text(_PAGE.format(figures="\n".join(figures)), encoding="utf-8")
