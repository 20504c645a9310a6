"""What a search tried, and the configuration that was best, in words: pieces of a report."""

from collections.abc import Mapping
from html import escape
from typing import Any

from vltune import report_pieces as pieces
from vltune.contract import Family
from vltune.field_texts import field_texts
from vltune.findings import Findings, plain
from vltune.parameters import Parameter, plain_text
from vltune.space import Description
from vltune.strategies import PRUNERS, SAMPLERS

_HASHES = ("_hash", "_hashes")
_SHOWN_VALUES = 12


def space(found: Findings, described: Description | None, family: type[Family] | None) -> str:
    """How the search chose, what it asked for with which ranges, and what was set by hand.

    Args:
        found: the run.
        described: its space; None: the values that trials had stand in its place.
        family: the run's, for what its fields mean.
    """
    record, texts = found.record, field_texts(family.Config) if family is not None else {}
    rows = [f"“{name}”" + (" (the base row)" if name == record.base_row else "") for name in record.rows]
    population = record.population or {}
    said = []
    if population:
        said.append(
            f"A population of {population['size']} trained together: every {population['segment_epochs']} epochs the "
            "worst became copies of the best, with changed settings."
        )
    elif not _all_named(found):
        said.append(
            f"Trials were chosen by the sampler `{record.sampler}`, which {_verb(SAMPLERS.get(record.sampler, ''))}."
        )
    if record.pruner != "none":
        said.append(f"The pruner `{record.pruner}` stopped trials early: {PRUNERS.get(record.pruner, '')}.")
    if record.seeds > 1:
        said.append(f"Each configuration was trained with {record.seeds} seeds; their mean counts.")
    if record.confirms:
        said.append(f"The rows are the best of the run `{record.confirms['run']}`, trained again with new seeds.")
    head = f"<p>{pieces.words(' '.join(said))}</p>" if said else ""
    if rows:
        named = "One named configuration" if len(rows) == 1 else f"{len(rows)} named configurations"
        when = "ran to the end" if _all_named(found) else "ran first, and to the end"
        head += f"<p>{named} {when}: {escape(', '.join(rows))}.</p>"
    if described is not None:
        entries = [_entry(parameter, record.pins, texts) for parameter in described.parameters]
    else:
        head += "<p>The file of the search is not what it was, or fails, so these are the values that trials had.</p>"
        entries = _observed(found, texts)
    asked = {name for name, *_ in entries}
    given = [entry for entry in entries if entry[0] in record.pins]
    searched = [] if _all_named(found) else [entry for entry in entries if entry[0] not in record.pins]
    several = ("seed",) if record.seeds > 1 else ()  # its trials have further ones
    own = {key: value for key, value in record.pins.items() if key not in (*asked, *several)}
    given += [(key, escape(plain_text(value)), texts.get(key, "")) for key, value in own.items()]
    body = "<h3>Searched</h3>" + pieces.facts(searched) if searched else "<p>Nothing else was tried.</p>"
    if given:
        body += f"<h3>Set by hand</h3><p class='read'>The same in all trials.</p>{pieces.facts(given)}"
    return head + body


def _all_named(found: Findings) -> bool:
    """Whether all trials are named rows, so that nothing was left to search."""
    return bool(found.record.rows) and found.record.num_trials <= len(found.record.rows)


def _verb(text: str) -> str:
    """What a sampler does, to go on behind ``which``."""
    return text if text.split(" ")[0] in ("learns", "draws") else f"is {text}"


def _entry(parameter: Parameter, pins: Mapping[str, Any], texts: Mapping[str, str]) -> tuple[str, str, str]:
    about = texts.get(parameter.name, "")
    if parameter.name in pins:
        return parameter.name, escape(plain_text(pins[parameter.name])), about
    condition = parameter.condition.replace("=", " = ").replace("|", " or ")
    when = f" <em>({escape(condition)})</em>" if condition else ""
    return parameter.name, escape(range_words(parameter)) + when, about


def range_words(parameter: Parameter) -> str:
    """The possible values of a parameter, in words."""
    if parameter.kind == "categorical":
        names = [plain_text(choice) for choice in parameter.choices]
        return f"always {names[0]}" if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    what = "a whole number" if parameter.kind == "int" else "a number"
    step = f", in steps of {parameter.step:g}" if parameter.step not in (None, 1) else ""
    even = ", evenly over orders of magnitude" if parameter.log else ""
    return f"{what} from {parameter.low:g} to {parameter.high:g}{step}{even}"


def _observed(found: Findings, texts: Mapping[str, str]) -> list[tuple[str, str, str]]:
    names = dict.fromkeys(name for row in found.rows for name in row.searched)
    entries = []
    for name in names:
        values = sorted(
            {row.config[name] for row in found.rows if name in row.searched}, key=lambda v: (str(type(v)), v)
        )
        shown = [plain(value) for value in values[:_SHOWN_VALUES]] + ["…"] * (len(values) > _SHOWN_VALUES)
        entries.append((name, escape(", ".join(shown)), texts.get(name, "")))
    return entries


def configuration(found: Findings, family: type[Family] | None) -> str:
    """The best trial's whole configuration: what was searched first, then all other fields, folded."""
    assert found.best is not None, "a configuration is that of the best trial"
    config, searched = found.best.config, set(found.best.searched)
    texts = field_texts(family.Config) if family is not None else {}
    first = [(key, escape(plain(config[key])), texts.get(key, "")) for key in config if key in searched]
    rest = [
        (key, escape(plain(value)) or "(empty)", texts.get(key, ""))
        for key, value in config.items()
        if key not in searched and not key.endswith(_HASHES)
    ]
    hashes = [
        (k, f"<code>{escape(str(v))}</code>", texts.get(k, "")) for k, v in config.items() if k.endswith(_HASHES) and v
    ]
    head = "<h3>What the search chose for it</h3>" + pieces.facts(first) if first else ""
    return head + pieces.folded(f"All {len(config)} fields of its configuration", pieces.facts(rest + hashes))
