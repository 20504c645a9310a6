"""A comparison table for a paper: LaTeX with booktabs (https://ctan.org/pkg/booktabs)."""

import re

from vltune.compare import BEST, BEST_OF_GROUP, ON_FRONT, Column, Table
from vltune.forms import MOST_PARAMETERS, folded, texts_of

_SIGNS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after the end of a row, it would begin an option
    "*": "{*}",
    "–": "--",
    "…": r"\dots{}",
    "±": r"$\pm$",
    "≥": r"$\ge$",
    ON_FRONT: r"$\diamond$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_NUMBERS = ("metric", "improvement", "p_value", "count", "epochs", "seconds")


def as_latex(table: Table, *, label: str) -> str:
    """A ``table`` environment: the best of all is bold, the best of a group in italics, the notes stand below.

    Args:
        label: the table is referred to by it, after ``tab:``.
    """
    if sum(column.kind == "parameter" for column in table.columns) > MOST_PARAMETERS:
        table = folded(table)
    around = {BEST: r"\textbf{{{}}}", BEST_OF_GROUP: r"\textit{{{}}}", "": "{}"}
    rows = [
        [
            around[table.marks.get((index, column.key), "")].format(_cell(text, column))
            for text, column in zip(texts, table.columns, strict=True)
        ]
        for index, texts in enumerate(texts_of(table))
    ]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{''.join(map(_alignment, table.columns))}}}",
        r"\toprule",
        " & ".join(_escaped(column.title) for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{' '.join(_escaped(_said(note)) for note in table.notes)}}}",
        rf"\label{{tab:{''.join(c if c.isascii() and c.isalnum() else '-' for c in label)}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _alignment(column: Column) -> str:
    if column.key == "settings" or column.kind == "remark":
        return r"p{0.3\linewidth}"
    return "r" if column.kind in _NUMBERS else "l"


def _cell(text: str, column: Column) -> str:
    if column.kind in _NUMBERS:
        return re.sub(r"(?<!-)-(?=\d)", "$-$", _escaped(text))
    return _escaped(text)


def _said(note: str) -> str:
    """Marks are set in bold and italics here."""
    return note.replace(f"{BEST} ", "Bold: ").replace(f"{BEST_OF_GROUP} ", "italics: ")


def _escaped(text: str) -> str:
    return "".join(_SIGNS.get(sign, sign) for sign in text)
