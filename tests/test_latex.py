"""The table for a paper: no TeX is here, so its structure is read."""

import re

from tests.test_compare import run, table
from tests.test_significance import rows, sure
from vltune.latex import as_latex


def lines_of(text: str) -> list[str]:
    return text.splitlines()


def test_rows_have_as_many_cells_as_there_are_columns() -> None:
    text = as_latex(sure(rows()), label="my run_1")
    lines = lines_of(text)
    (alignment,) = re.findall(r"\\begin\{tabular\}\{(.*)\}", text)
    assert alignment == "lrrrrrrr"
    body = lines[lines.index(r"\toprule") + 1 : lines.index(r"\bottomrule")]
    assert body.pop(1) == r"\midrule"
    assert len(body) == 5
    for line in body:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == len(alignment) - 1
    assert body[0].startswith(r"name & epochs & cider & val\_loss & \% over base & p & ")
    assert r"\label{tab:my-run-1}" in lines
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert opened == ["table", "tabular"]
    assert re.findall(r"\\end\{(\w+)\}", text) == opened[::-1]
    assert depth(text) == 0


def depth(text: str) -> int:
    plain = re.sub(r"\\[{}]", "", text)
    return plain.count("{") - plain.count("}")


def test_the_best_is_bold_and_of_its_group_in_italics() -> None:
    given = [
        run("a", 0.9, 3.0, decoder="lstm"),
        run("b", 0.5, 2.0),
        run("c", 0.4, 2.5, decoder="gru"),
        run("d", 0.3, 2.6, decoder="gru"),
    ]
    text = as_latex(table(given, group_by="decoder"), label="x")
    assert r"\textbf{0.9000}" in text
    assert r"\textit{0.4000}" in text
    assert "Bold: best of all, italics: best of its decoder." in text
    assert "●" not in text


def test_what_tex_would_read_as_its_own_is_escaped() -> None:
    given = [run(r"[a] 50% & $x_1^2 {b} #1 ~ \c", -0.5, 2.0), run("*<b>|", 0.25, 3.0)]
    text = as_latex(table(given, base_row="*<b>|"), label="x")
    first = next(line for line in lines_of(text) if line.startswith(r"{[}a]"))
    assert first.startswith(
        r"{[}a] 50\% \& \$x\_1\textasciicircum{}2 \{b\} \#1 \textasciitilde{} \textbackslash{}c & 10 & $-$0.5000 & "
    )
    assert any(line.startswith(r"{*}\textless{}b\textgreater{}\textbar{} & ") for line in lines_of(text))
    assert depth(text) == 0


def test_many_parameters_become_one_column() -> None:
    rates = {f"p{i}": i for i in range(6)}
    given = [run("", 0.3, 1.0, uid="a", **rates), run("", 0.2, 1.0, uid="b", **{k: v + 1 for k, v in rates.items()})]
    text = as_latex(table(given), label="x")
    assert r"\begin{tabular}{lp{0.3\linewidth}r" in text
    assert "p0=1 p1=2 p2=3" in text
