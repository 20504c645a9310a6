"""How pages look: what every page shares, what tables have, and what the report of a search has beside these."""

from html import escape

BASE = """
:root { color-scheme: light dark; --ink: #1d2430; --faint: #5d6878; --line: #d8dde5; --page: #ffffff; --tint: #eaf3fa;
  --mark: #0072b2; --bad: #b3261e; --sans: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --faint: #9aa5b5; --line: #333b48; --page: #14181f;
  --tint: #16293a; --mark: #5cb8ee; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 3rem; max-width: 90rem; color: var(--ink); background: var(--page);
  font: 15px/1.5 var(--sans); }
h1 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 .25rem; }
.about { color: var(--faint); margin: 0 0 1.25rem; max-width: 60rem; }
"""
"""Colours, letters and edges of a page."""

TABLE = """
.frame { overflow-x: auto; --shade: color-mix(in srgb, var(--ink) 16%, transparent);
  background: linear-gradient(to right, var(--page) 40%, transparent) 0 0 / 3rem 100% local,
    linear-gradient(to left, var(--page) 40%, transparent) 100% 0 / 3rem 100% local,
    linear-gradient(to right, var(--shade), transparent) 0 0 / .8rem 100% scroll,
    linear-gradient(to left, var(--shade), transparent) 100% 0 / .8rem 100% scroll; background-repeat: no-repeat; }
.frame table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.frame th, .frame td { padding: .45rem .65rem; text-align: right; vertical-align: top; white-space: nowrap; }
.frame th { border-bottom: 2px solid var(--ink); vertical-align: bottom; font-weight: 600; white-space: normal; }
.frame td { border-bottom: 1px solid var(--line); }
.frame th.words, .frame td.words { text-align: left; }
.frame td.words { overflow-wrap: break-word; }
.frame td.name { font-weight: 500; white-space: normal; min-width: 9.5rem; max-width: 16rem; }
.frame th.name, .frame td.name { position: sticky; left: 0; background: var(--page); }
.frame td.settings { white-space: normal; min-width: 15rem; max-width: 22rem; color: var(--faint); font-size: .92em; }
.frame tr.best td { background: var(--tint); }
.frame tr.failed td { color: var(--faint); }
.frame tr.failed td.remark { color: var(--bad); }
.frame td.remark { white-space: normal; color: var(--faint); min-width: 18rem; max-width: 32rem; font-size: .92em; }
.spread { color: var(--faint); font-size: .87em; margin-left: .35em; }
.frame b { font-weight: 700; }
.mark { display: inline-block; width: .9em; color: var(--mark); text-align: center; margin-left: .3em;
  font-size: .8em; }
.notes { color: var(--faint); font-size: .9rem; max-width: 60rem; padding-left: 1.1rem; margin-top: 1.25rem; }
.notes li { margin: .2rem 0; }
@media (max-width: 46rem) {
  body { padding: 1.25rem 1rem 2rem; }
  .frame table, .frame tbody, .frame tr, .frame td { display: block; }
  .frame thead { display: none; }
  .frame tr { border: 1px solid var(--line); border-radius: .5rem; margin-bottom: .75rem; padding: .5rem .9rem; }
  .frame tr.best { background: var(--tint); }
  .frame td.name { position: static; background: none; }
  .frame td, .frame td.words, .frame td.name, .frame td.settings, .frame td.remark { display: flex;
    justify-content: space-between; gap: 1rem; border: 0; padding: .15rem 0; text-align: right; white-space: normal;
    max-width: none; min-width: 0; }
  .frame td::before { content: attr(data-title); color: var(--faint); flex: none; }
  .frame td.name { font-size: 1.05rem; font-weight: 600; }
  .frame td.name::before { content: none; }
  .frame td:empty, .mark:empty { display: none; }
}
"""
"""What ``pages.html_table`` needs; on a narrow screen each row stands by itself."""

REPORT = """
:root { --card: #f6f8fa; --c0: #0072b2; --c1: #c04e00; --c2: #007f5f; --c3: #a8558a; --c4: #a87400; --c5: #2b83b8;
  --c6: #5b5b5b; --paper: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --card: #1b212b; --c0: #5cb8ee; --c1: #ff9a52; --c2: #35c49a;
  --c3: #e3a0c9; --c4: #e9b949; --c5: #8fd0f5; --c6: #b4b4b4; --paper: #e9ecf0; } }
html { scroll-behavior: smooth; }
body { max-width: 88rem; padding: 0; font-size: 16px; line-height: 1.6; overflow-wrap: break-word; }
a { color: var(--mark); }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; border-radius: 2px; }
main { padding: 2.5rem 1.5rem 5rem; max-width: 66rem; margin: 0 auto; }
h1 { font-size: clamp(1.6rem, 1.15rem + 1.9vw, 2.4rem); line-height: 1.18; letter-spacing: -.015em; font-weight: 700;
  margin: .35rem 0 1rem; max-width: 30em; text-wrap: balance; }
h2 { font-size: 1.5rem; line-height: 1.25; letter-spacing: -.01em; margin: 3rem 0 .75rem; padding-top: 1.1rem;
  border-top: 1px solid var(--line); scroll-margin-top: .5rem; }
h3 { font-size: 1.1rem; line-height: 1.35; margin: 2.25rem 0 .35rem; }
p, .prose li { max-width: 44rem; }
p { margin: 0 0 .9rem; }
.frame { font-size: .92rem; }
@media (min-width: 46.01rem) { .frame th, .frame td { padding: .4rem .55rem; } }
.eyebrow { color: var(--faint); font-size: .9rem; margin: 0; }
.lead { font-size: 1.2rem; line-height: 1.5; max-width: 40rem; }
.faint, .read { color: var(--faint); }
.read { font-size: .95rem; margin: 0 0 .75rem; }
code, pre, kbd { font-family: var(--mono); font-size: .88em; }
code { overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; margin: .4rem 0
  1rem; overflow-x: auto; line-height: 1.5; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
.toc { font-size: .95rem; border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1.1rem;
  margin: 2rem 0 0; }
.toc p { margin: 0 0 .2rem; font-weight: 600; }
.toc ol { list-style: none; margin: 0; padding: 0; columns: 2; }
.toc a { display: inline-block; padding: .16rem 0; color: var(--ink); text-decoration: none; }
.toc a:hover { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem; margin: 1.75rem 0; }
.tiles div { background: var(--card); border-radius: .6rem; padding: .85rem 1rem; }
.tiles dt { color: var(--faint); font-size: .88rem; }
.tiles dd { margin: 0; font-size: 1.6rem; line-height: 1.25; font-weight: 650; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.tiles dd.long { font-size: 1.1rem; line-height: 1.35; }
.tiles small { display: block; font-size: .85rem; font-weight: 400; color: var(--faint); letter-spacing: 0;
  line-height: 1.4; }
.care { border-left: 3px solid var(--c4); background: var(--card); border-radius: 0 .6rem .6rem 0;
  padding: 1rem 1.25rem;
  margin: 1.5rem 0; }
.care h2, .care h3 { margin: 0 0 .35rem; padding: 0; border: 0; font-size: 1.1rem; letter-spacing: 0; }
.care ul { margin: 0; padding-left: 1.15rem; }
.care li { margin: .3rem 0; max-width: 52rem; }
.facts { display: grid; grid-template-columns: minmax(9rem, 15rem) minmax(0, 1fr); margin: .5rem 0 1.25rem; }
.facts dt, .facts dd { padding: .5rem 0; border-top: 1px solid var(--line); margin: 0; }
.facts dt { padding-right: 1rem; font-weight: 550; overflow-wrap: anywhere; }
.facts dd > span { display: block; color: var(--faint); font-size: .92rem; max-width: 46rem; }
.facts dt:first-of-type, .facts dt:first-of-type + dd { border-top: 0; }
figure { margin: 1rem 0 1.5rem; }
figcaption { color: var(--faint); font-size: .95rem; max-width: 44rem; }
.plot > svg { width: 100%; height: auto; display: block; }
.plot > .narrow { display: none; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18.5rem, 100%), 1fr));
  gap: .5rem 1.25rem; }
.panels figure { margin: 0; }
.panels.two { grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 0 2rem; }
.legend { list-style: none; margin: .25rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.25rem;
  font-size: .92rem; }
.legend svg { width: 1.7rem; height: .6rem; margin-right: .45rem; vertical-align: middle; }
.bars { margin: .5rem 0 1.5rem; display: grid; grid-template-columns: minmax(6rem, 14rem) minmax(0, 1fr) max-content;
  gap: .3rem .9rem; align-items: center; font-size: .95rem; }
.bars dt { overflow-wrap: anywhere; line-height: 1.3; }
.bars dd { margin: 0; }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; color: var(--faint); white-space: nowrap; }
.track { position: relative; height: .85rem; background: var(--card); border-radius: .25rem; }
.track i { position: absolute; top: 0; bottom: 0; min-width: 3px; border-radius: .25rem; background: var(--c0); }
.track i.pruned { background: var(--c4); } .track i.failed { background: var(--bad); }
.track i.running, .track i.stopped, .track i.interrupted, .track i.waiting { background: var(--c6); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17.5rem, 100%), 1fr)); gap: 1.5rem 1.25rem;
  margin: .75rem 0 1rem; align-items: start; }
.card { margin: 0; background: var(--card); border-radius: .6rem; overflow: hidden; }
.card > img { width: 100%; height: auto; aspect-ratio: 4 / 3; object-fit: contain; display: block; }
.card figcaption { padding: .8rem 1rem 1rem; color: var(--ink); max-width: none; font-size: .95rem; line-height: 1.45; }
.said { list-style: none; margin: 0; padding: 0; }
.said li { padding: .3rem 0 .3rem .7rem; border-left: 3px solid var(--c6); margin-bottom: .45rem; }
.said .who { display: flex; justify-content: space-between; gap: .75rem; font-size: .84rem; color: var(--faint); }
.said .who > :last-child:not(:first-child) { white-space: nowrap; }
.said q { quotes: none; font-weight: 600; overflow-wrap: anywhere; }
.s0 { border-color: var(--c0) !important; } .s1 { border-color: var(--c1) !important; }
.s2 { border-color: var(--c2) !important; } .s3 { border-color: var(--c3) !important; }
.s4 { border-color: var(--c4) !important; } .s5 { border-color: var(--c5) !important; }
.people { margin: .6rem 0 0; color: var(--faint); font-size: .88rem; }
.people ul { margin: .15rem 0 0; padding-left: 1.05rem; }
.people summary { padding: 0; font-size: 1em; font-weight: 400; }
.paper { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; padding: .5rem;
  overflow-x: auto; }
.paper img { display: block; max-width: 100%; height: auto; margin: 0 auto; mix-blend-mode: multiply; }
details > summary { cursor: pointer; font-weight: 550; padding: .4rem 0; }
details.box { border: 1px solid var(--line); border-radius: .6rem; padding: .35rem 1rem; margin: 1rem 0; }
details.box[open] { padding-bottom: 1rem; }
iframe { width: 100%; height: min(78vh, 52rem); border: 1px solid var(--line); border-radius: .5rem;
  background: var(--page); }
footer { color: var(--faint); font-size: .9rem; margin-top: 4rem; border-top: 1px solid var(--line);
  padding-top: 1rem; }
@media (min-width: 75rem) {
  main.with-toc { display: grid; grid-template-columns: 14.5rem minmax(0, 1fr); column-gap: 3rem; max-width: 84rem; }
  .with-toc > * { grid-column: 2; min-width: 0; }
  .with-toc > .toc { grid-column: 1; grid-row: 1 / span 20; }
  .toc { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow-y: auto; border: 0; margin: 0;
    padding: .3rem 0 1rem; }
  .toc ol { columns: 1; }
}
@media (max-width: 75rem) { main { padding-top: 1.75rem; } }
@media (max-width: 46rem) {
  main { padding: 1.5rem 1rem 3rem; } .toc ol { columns: 1; }
  .facts { grid-template-columns: minmax(0, 1fr); } .facts dd { border-top: 0; padding-top: 0; }
  .bars { grid-template-columns: minmax(0, 1fr) max-content; gap: .1rem .75rem; }
  .bars dt { grid-column: 1 / -1; margin-top: .45rem; }
  .plot > .wide { display: none; } .plot > .narrow { display: block; }
  .paper.broad img { max-width: none; width: 46rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } .tiles dd:not(.long) { font-size: 1.3rem; }
}
@media print {
  :root { color-scheme: light; --ink: #000; --faint: #444; --line: #bbb; --page: #fff; --card: #f4f4f4; }
  .toc, .study { display: none; } main.with-toc { display: block; } main { max-width: none; padding: 0; }
  .card, figure, .tiles, .care { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .plot > .wide { display: block; } .plot > .narrow { display: none; } .frame { overflow: visible; font-size: 11px; }
}
"""
"""What the report of a search has beside ``BASE`` and ``TABLE``."""


def document(body: str, *, title: str, styles: str) -> str:
    """A whole page.

    Args:
        body: HTML.
        title: of the window, as text.
        styles: beside ``BASE``, which every page has.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{BASE}{styles}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
