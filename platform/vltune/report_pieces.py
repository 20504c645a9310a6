"""Pieces of a report's page: HTML from plain values. All text that comes from elsewhere is escaped here."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from vltune.exhibition import Exhibition
from vltune.forms import duration
from vltune.gallery import APART, BEST, SOME, USUAL, WORST, GalleryItem
from vltune.inline import picture_uri
from vltune.page_style import REPORT, TABLE, document

_KINDS = {
    BEST: "Best",
    USUAL: "Usual",
    WORST: "Worst",
    APART: "Where the models differ most",
    SOME: "Some of the pictures",
}
_SIGNS = {
    "line": '<path d="M0 6H34" stroke-width="4"></path>',
    "dashes": '<path d="M0 6H34" stroke-width="3" stroke-dasharray="9 4"></path>',
    "dot": '<circle cx="17" cy="6" r="5"></circle>',
    "cross": '<path d="M12 1L22 11M12 11L22 1" stroke-width="2.5"></path>',
}
_LEAST_SHARE = 0.01
_LONG_VALUE = 14
"""Letters from which on a great number, which may be a name, is written smaller."""
_SHOWN_REFERENCES = 2
_COLORS = 6
_LINK = re.compile(r"\s*\([^()]*https?://[^()]*\)")


def page(*, title: str, head: str, sections: Sequence[tuple[str, str, str]], foot: str) -> str:
    """The whole page.

    Args:
        title: of the window.
        head: HTML of its beginning, with the only ``h1``.
        sections: name of the anchor, heading, HTML; those without HTML are left out.
        foot: HTML of its end.
    """
    kept = [(name, heading, body) for name, heading, body in sections if body]
    links = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in kept)
    bodies = "\n".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(heading)}</h2>\n{body}</section>'
        for name, heading, body in kept
    )
    main = (
        f'<main class="with-toc">\n<header>{head}</header>\n'
        f'<nav class="toc" aria-label="On this page"><p>On this page</p><ol>{links}</ol></nav>\n'
        f"{bodies}\n<footer>{foot}</footer>\n</main>"
    )
    return document(main, title=title, styles=TABLE + REPORT)


def words(text: str) -> str:
    """A text with ``code`` in double or single backticks as HTML, without the addresses that stand in brackets."""
    shown = escape(_LINK.sub("", text))
    return re.sub(r"(`+)(.+?)\1", r"<code>\2</code>", shown)


def listed(lines: Sequence[str], *, kind: str = "prose") -> str:
    """Lines as a list."""
    items = "".join(f"<li>{words(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if lines else ""


def facts(entries: Sequence[tuple[str, str, str]]) -> str:
    """Names with their values, and what they mean.

    Args:
        entries: name, value as HTML, meaning as text.
    """
    if not entries:
        return ""
    rows = (
        f"<dt><code>{escape(name)}</code></dt><dd>{value}{f'<span>{words(about)}</span>' if about else ''}</dd>"
        for name, value, about in entries
    )
    return f'<dl class="facts">{"".join(rows)}</dl>'


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """A few great numbers: what it is, the number, a word on it."""
    boxes = []
    for name, value, about in entries:
        small = f"<small>{escape(about)}</small>" if about else ""
        size = ' class="long"' if len(value) > _LONG_VALUE else ""
        boxes.append(f"<div><dt>{escape(name)}</dt><dd{size}>{escape(value)}{small}</dd></div>")
    return f'<dl class="tiles">{"".join(boxes)}</dl>'


def folded(summary: str, body: str, *, kind: str = "box") -> str:
    """What is unfolded by who wants it."""
    return f'<details class="{kind}"><summary>{escape(summary)}</summary>{body}</details>' if body else ""


def command(line: str, about: str = "") -> str:
    """A command, to be copied."""
    said = f"<p>{words(about)}</p>" if about else ""
    return f'{said}<pre class="wrap"><code>{escape(line)}</code></pre>'


def legend(names: Sequence[tuple[str, str, str]]) -> str:
    """What colours and signs of a plot stand for: name, colour, and one of ``line``, ``dashes``, ``dot``, ``cross``."""
    items = "".join(
        f'<li><svg viewBox="0 0 34 12" aria-hidden="true" style="stroke: {color}; fill: {color}">{_SIGNS[sign]}</svg>'
        f"{escape(name)}</li>"
        for name, color, sign in names
    )
    return f'<ul class="legend">{items}</ul>'


def bars(values: Mapping[str, float]) -> str:
    """Shares of a whole as bars, from 0 to 1, with their numbers; the least are named together."""
    greatest = max(values.values(), default=0.0) or 1.0
    least = [name for name, value in values.items() if value < _LEAST_SHARE]
    rows = (
        f'<dt><code>{escape(name)}</code></dt><dd class="track"><i style="left:0;width:{100 * value / greatest:.1f}%">'
        f'</i></dd><dd class="value">{100 * value:.0f} %</dd>'
        for name, value in values.items()
        if name not in least
    )
    rest = f'<p class="read">Less than 1 % each: {escape(", ".join(least))}.</p>' if least else ""
    return f'<dl class="bars">{"".join(rows)}</dl>{rest}' if values else ""


def timeline(spans: Sequence[tuple[str, str, float, float]]) -> str:
    """When each trial ran.

    Args:
        spans: name, state, first and last second.
    """
    if not spans:
        return ""
    begin = min(first for *_, first, _ in spans)
    whole = max(max(last for *_, last in spans) - begin, 1e-9)
    rows = (
        f'<dt>{escape(name)}</dt><dd class="track"><i class="{escape(state)}" style="left:'
        f'{100 * (first - begin) / whole:.2f}%;width:{100 * (last - first) / whole:.2f}%"></i></dd>'
        f'<dd class="value">{duration(last - first)}{"" if state == "finished" else f", {escape(state)}"}</dd>'
        for name, state, first, last in spans
    )
    return f'<dl class="bars">{"".join(rows)}</dl>'


def gallery(shown: Exhibition, *, level: int = 3) -> str:
    """The pictures of an exhibition, each with what the models say about it."""
    parts = []
    for kind, items in shown.groups.items():
        cards = "".join(_card(item, shown) for item in items)
        parts.append(f'<h{level}>{_KINDS[kind]}</h{level}>\n<div class="cards">{cards}</div>')
    return "\n".join(parts) + listed(shown.notes, kind="notes")


def heading(kind: str) -> str:
    """Why pictures are shown, in words."""
    return _KINDS[kind]


def gallery_page(shown: Exhibition, *, title: str) -> str:
    """A gallery as a page of its own."""
    by = f"Best, usual and worst are by the mean {shown.metric} of the captions. " if shown.metric else ""
    about = f"{by}Chosen from {shown.pictures:,} validation pictures that all models captioned."
    main = (
        f'<main><h1>Captions: {escape(title)}</h1><p class="about">{escape(about)}</p>\n'
        f"{gallery(shown, level=2)}</main>"
    )
    return document(main, title=title, styles=TABLE + REPORT)


def _card(item: GalleryItem, shown: Exhibition) -> str:
    said = []
    for number, model in enumerate(shown.models):
        score = f"<span>{escape(shown.metric)} {item.scores[model]:.2f}</span>" if model in item.scores else ""
        caption = escape(item.captions[model]) or "(empty)"
        said.append(
            f'<li class="s{number % _COLORS}"><span class="who"><span>{escape(model)}</span>{score}</span>'
            f"<q>{caption}</q></li>"
        )
    about = f"People wrote: {item.references[0]}" if item.references else f"Picture {item.id}"
    return (
        f'<figure class="card"><img src="{picture_uri(item.picture)}" alt="{escape(about)}">'
        f'<figcaption><ul class="said">{"".join(said)}</ul>{_people(item.references)}</figcaption></figure>'
    )


def _people(references: Sequence[str]) -> str:
    if not references:
        return ""
    first, rest = references[:_SHOWN_REFERENCES], references[_SHOWN_REFERENCES:]
    more = f"<details><summary>{len(rest)} more</summary>{_items(rest)}</details>" if rest else ""
    return f'<div class="people">People wrote:{_items(first)}{more}</div>'


def _items(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def drawing(uri: str, *, width: int, height: int, title: str, reads: str) -> str:
    """A figure that a trial left: its picture on paper, which stays light in the dark, with how to read it."""
    broad = " broad" if width > 700 else ""
    return (
        f'<figure><h3>{escape(title)}</h3><p class="read">{words(reads)}</p><div class="paper{broad}" tabindex="0" '
        f'role="region" aria-label="{escape(title)}"><img src="{uri}" width="{width}" height="{height}" '
        f'alt="{escape(f"{title}. {reads}")}"></div></figure>'
    )


def plot(title: str, reads: str, drawn: Sequence[str], below: str = "") -> str:
    """A plot with its heading: one or two drawings, of which the page shows the one that fits its width."""
    return (
        f'<h3>{escape(title)}</h3><p class="read">{words(reads)}</p>'
        f'<figure class="plot">{"".join(drawn)}{below}</figure>'
    )


def inner_page(summary: str, html: str, *, title: str) -> str:
    """A page inside the page, folded. It is read when it is unfolded: large ones would keep the page from opening, and
    what is drawn before it is seen gets wrong sizes.
    """
    opened = "const frame = this.querySelector('iframe'); if (this.open) frame.srcdoc ||= frame.dataset.page"
    frame = (
        f'<iframe title="{escape(title)}" sandbox="allow-scripts allow-downloads" data-page="{escape(html)}"></iframe>'
    )
    return f'<details class="box study" ontoggle="{opened}"><summary>{escape(summary)}</summary>{frame}</details>'
