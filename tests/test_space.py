"""Pins, rows and records before a real Optuna trial; and what is said of a space."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest

from search_spaces import SEARCHES
from vltune.configuration import TrialConfig
from vltune.contract import Direction, Family, Search
from vltune.errors import BadInput, NotFound
from vltune.search_files import load_search
from vltune.space import (
    PinnedTrial,
    check,
    describe,
    example,
    parse_pins,
    record_pins,
    resolve,
    whole_rows,
)


@dataclass(frozen=True, kw_only=True)
class SmallConfig(TrialConfig):
    decoder: str = "gru"
    heads: int = 4
    layers: int = 1
    dropout: float = 0.0
    shared: bool = False
    width: int = 64
    prompt: str = ""


class Small(Family):
    """Never built: a space needs a family's configuration and metrics alone."""

    name = "small"
    Config = SmallConfig
    metrics: ClassVar[Mapping[str, Direction]] = {"val_loss": "min", "cider": "max"}


def define(trial: Any) -> SmallConfig:
    decoder = trial.suggest_categorical("decoder", ("gru", "transformer"))
    heads, layers = 4, 1
    if decoder == "transformer":
        heads = trial.suggest_categorical("heads", (2, 4, 8))
        layers = trial.suggest_int("layers", 1, 3)
    return SmallConfig(
        decoder=decoder,
        heads=heads,
        layers=layers,
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.5, step=0.1),
        width=32 * heads,
        epochs=6,
    )


ROWS: Mapping[str, Mapping[str, Any]] = {
    "GRU": {"decoder": "gru", "learning_rate": 1e-3, "dropout": 0.1},
    "Transformer": {"decoder": "transformer", "heads": 8, "layers": 2, "learning_rate": 1e-3, "dropout": 0.1},
}


def _search(**changes: Any) -> Search:
    fields = {"name": "small", "family": Small, "define": define, "objective": "cider", "num_trials": 5, "rows": ROWS}
    return Search(**{**fields, **changes})


def _study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))


# --- the proxy before a real trial


def test_without_pins_it_is_the_trial_itself() -> None:
    plain, proxied = _study().ask(), _study().ask()
    config = define(plain)
    resolved = resolve(_search(), proxied, defaults={})
    assert dataclasses.replace(resolved.config, objective=config.objective) == config
    assert resolved.searched == proxied.params == plain.params
    assert proxied.distributions == plain.distributions


def test_a_constant_is_no_longer_searched_and_branches_follow_it() -> None:
    trial = _study().ask()
    resolved = resolve(_search(), trial, pins={"decoder": "transformer", "dropout": 0.37})
    fields = resolved.config.fields()
    assert fields["decoder"] == "transformer"
    assert fields["dropout"] == 0.37, "off the grid: a person may"
    assert set(trial.params) == {"heads", "layers", "learning_rate"} == set(resolved.searched)


def test_optuna_learns_the_values_of_a_row() -> None:
    study = _study()
    study.enqueue_trial(dict(ROWS["Transformer"]))
    trial = study.ask()
    resolved = resolve(_search(), trial, row=ROWS["Transformer"])
    assert trial.params == ROWS["Transformer"] == resolved.searched
    assert {k: v for k, v in resolved.config.fields().items() if k in ROWS["Transformer"]} == ROWS["Transformer"]


def test_a_row_outside_the_range_is_used_but_not_told() -> None:
    row = {**ROWS["Transformer"], "heads": 16, "learning_rate": 0.5, "dropout": 0.15, "layers": 9}
    trial = _study().ask()
    resolved = resolve(_search(rows={"far": row}), trial, row=row)
    assert {k: resolved.config.fields()[k] for k in row} == row
    assert set(trial.params) == {"decoder"}


def test_a_row_may_set_what_define_does_not_ask_for_and_a_pin_wins() -> None:
    row = {**ROWS["GRU"], "epochs": 3}
    search = _search(rows={"short": row})
    assert resolve(search, None, row=row).config.epochs == 3
    resolved = resolve(search, None, row=row, pins={"epochs": 2, "dropout": 0.2, "seed": 5})
    assert (resolved.config.epochs, resolved.config.seed) == (2, 5)
    assert resolved.notes == ("epochs=2 was set, in place of 3", "dropout=0.2 was set, in place of 0.1")


def test_a_fixed_field_that_a_pin_replaces_is_noted_in_a_row() -> None:
    assert resolve(_search(), None, row=ROWS["GRU"], pins={"epochs": 2}).notes == ("epochs=2 was set, in place of 6",)
    assert resolve(_search(), None, row=ROWS["GRU"], pins={"epochs": 6}).notes == ()


def test_a_row_must_say_everything() -> None:
    row = {k: v for k, v in ROWS["Transformer"].items() if k != "heads"}
    with pytest.raises(BadInput, match=r"search 'small', row 'x': it does not say 'heads'; .*--set heads=VALUE"):
        resolve(_search(rows={"x": row}), _study().ask(), row=row)
    # The flipped branch asks for what the row never needed: a pin is the way out.
    with pytest.raises(BadInput, match="does not say 'heads'"):
        resolve(_search(), None, row=ROWS["GRU"], pins={"decoder": "transformer"})
    pins = {"decoder": "transformer", "heads": 2, "layers": 1}
    assert resolve(_search(), None, row=ROWS["GRU"], pins=pins).config.fields()["heads"] == 2


def test_rows_that_a_constant_breaks_are_no_rows_of_the_narrowed_search() -> None:
    kept, left_out = whole_rows(_search(rows=ROWS), {"decoder": "transformer"})
    assert (list(kept), left_out) == (["Transformer"], ["GRU"])
    assert kept["Transformer"] is ROWS["Transformer"]
    assert whole_rows(_search(rows=ROWS), {"dropout": 0.1}) == (ROWS, [])
    assert whole_rows(_search(rows=ROWS), {"decoder": "transformer", "heads": 2, "layers": 1}) == (ROWS, [])
    # One that lacks something whatever is set is the author's slip: it stays, and is refused.
    assert whole_rows(_search(rows={"x": {"decoder": "gru"}}), {"epochs": 2})[1] == []


def test_a_record_replays_to_the_same_configuration() -> None:
    study = _study()
    for _ in range(30):
        config = resolve(_search(), study.ask(), defaults={"data": "pictures", "seed": 3}).config
        again = resolve(_search(), None, pins=config.fields(), defaults={"data": "elsewhere", "seed": 4})
        assert again.config == config
        assert not again.searched


def test_defaults_fill_only_what_nobody_spoke_of() -> None:
    config = resolve(_search(), None, row=ROWS["GRU"], defaults={"data": "x", "epochs": 99, "dropout": 0.4}).config
    assert (config.data, config.epochs, config.fields()["dropout"], config.objective) == ("x", 6, 0.1, "cider")
    assert resolve(_search(), None, row=ROWS["GRU"], pins={"objective": "val_loss"}).config.objective == "val_loss"
    with pytest.raises(BadInput, match=r"unknown key 'dta'.*did you mean 'data'"):
        resolve(_search(), None, row=ROWS["GRU"], defaults={"dta": "x"})


def test_a_pin_of_another_branch_waits_for_its_branch() -> None:
    pins = {"heads": 2}
    assert resolve(_search(), None, row=ROWS["Transformer"], pins=pins).config.fields()["heads"] == 2
    assert resolve(_search(), None, row=ROWS["GRU"], pins=pins).config.fields()["heads"] == 4
    check(_search(), pins=pins)
    with pytest.raises(BadInput, match=r"'heads' is never asked for with decoder=gru; do not set it"):
        check(_search(rows={}), pins={"heads": 2, "decoder": "gru"})


def test_a_key_that_nobody_consumes_is_an_error() -> None:
    with pytest.raises(BadInput, match=r"search 'small': unknown key 'head' for SmallConfig; did you mean 'heads'\?"):
        resolve(_search(), _study().ask(), pins={"head": 2})
    with pytest.raises(BadInput, match="layers='3' has the wrong type"):
        resolve(_search(), None, row=ROWS["Transformer"], pins={"layers": "3"})


def test_the_proxy_tells_what_was_asked_and_consumed() -> None:
    proxy = PinnedTrial(_study().ask(), pins={"decoder": "gru", "seed": 1})
    define(proxy)
    assert proxy.consumed == {"decoder"}
    assert {name: p.kind for name, p in proxy.asked.items()} == {
        "decoder": "categorical",
        "learning_rate": "float",
        "dropout": "float",
    }
    assert proxy.suggest_float("learning_rate", 1e-4, 1e-2, log=True) == proxy.searched["learning_rate"]


@pytest.mark.parametrize(
    ("ask", "rule"),
    [
        (
            lambda t: t.suggest_float("x", 2.0, 1.0),
            r"parameter 'x': low <= high must hold, but got low=2\.0, high=1\.0",
        ),
        (lambda t: t.suggest_int("x", 5, 4), "low <= high must hold"),
        (lambda t: t.suggest_float("x", 0.0, 1.0, log=True), "low > 0 must hold for log=True, but got low=0.0"),
        (lambda t: t.suggest_int("x", 0, 4, log=True), "low > 0 must hold"),
        (lambda t: t.suggest_categorical("x", ()), "choices must be at least one .*, but got no choices"),
        (lambda t: t.suggest_categorical("x", ((1, 2), (3, 4))), r"got the choice \(1, 2\)"),
        (lambda t: t.suggest_float("x", 0.0, 1.0, step=0.0), "step > 0 must hold"),
        (lambda t: t.suggest_int("x", 0, 4, step=-1), "step > 0 must hold"),
        (lambda t: t.suggest_float("x", 0.0, 1.0, step=0.3), "step must divide high - low"),
        (lambda t: t.suggest_float("x", 0.1, 1.0, step=0.1, log=True), "step and log=True exclude each other"),
        (lambda t: t.suggest_int("x", 1, 9, step=2, log=True), "step and log=True exclude each other"),
        (lambda t: t.suggest_float("x", 0.0, float("inf")), "must be finite"),
        (lambda t: t.suggest_float("x", float("nan"), 1.0), "must be finite"),
        (lambda t: t.suggest_int("x", 0.5, 4), "must be whole numbers"),
        (lambda t: (t.suggest_int("x", 0, 4), t.suggest_int("x", 0, 5)), "asked twice with different ranges"),
    ],
)
def test_bad_ranges_are_one_line(ask: Any, rule: str) -> None:
    with pytest.raises(BadInput, match=rule) as caught:
        ask(PinnedTrial(_study().ask()))
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"search 'small'.*'x'"):
        check(_search(rows={}, define=lambda t: (ask(t), SmallConfig())[1]))


@pytest.mark.parametrize("value", [0.1, 0.30000000000000004, 0.5])
def test_values_on_the_grid_are_told_in_spite_of_rounding(value: float) -> None:
    trial = _study().ask()
    PinnedTrial(trial, row={"x": value}).suggest_float("x", 0.0, 0.5, step=0.1)
    assert "x" in trial.params


def test_true_is_not_the_choice_one() -> None:
    trial = _study().ask()
    PinnedTrial(trial, row={"x": True}).suggest_categorical("x", (1, 2))
    assert not trial.params


# --- --set


def test_pins_have_the_types_of_their_fields() -> None:
    texts = ["heads=8", "dropout=1e-1", "shared=TRUE", "prompt=a = b", "learning_rate=1", "penalty_part="]
    pins = parse_pins(texts, SmallConfig)
    assert pins == {
        "heads": 8,
        "dropout": 0.1,
        "shared": True,
        "prompt": "a = b",
        "learning_rate": 1.0,
        "penalty_part": "",
    }
    assert [type(v) for v in pins.values()] == [int, float, bool, str, float, str]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["heads=4.0"], r"--set heads=4\.0: heads is of type int and must be a whole number"),
        (["heads=" + "9" * 400], "must be a whole number"),
        (["heads="], "must be a whole number"),
        (["dropout=much"], "dropout is of type float and must be a finite number"),
        (["dropout=nan"], "finite"),
        (["dropout=-inf"], "finite"),
        (["shared=1"], "shared is of type bool and must be true or false"),
        (["heds=4"], "unknown key 'heds' for SmallConfig; did you mean 'heads'"),
        (["heads"], "write it as key=value"),
        (["heads=4", "heads=8"], "'heads' is set twice"),
    ],
)
def test_bad_pins_are_one_line(texts: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        parse_pins(texts, SmallConfig)
    assert "\n" not in str(caught.value)


# --- what is said of a space


def test_describe_finds_conditions() -> None:
    described = describe(_search())
    assert [str(p) for p in described.parameters] == [
        "decoder: categorical gru, transformer",
        "heads: categorical 2, 4, 8; only with decoder=transformer",
        "layers: int 1 to 3; only with decoder=transformer",
        "learning_rate: float 0.0001 to 0.01, log",
        "dropout: float 0 to 0.5, step 0.1",
    ]
    assert described.fixed == {"epochs": 6}
    assert described.derived == ("width",)
    assert described.question.startswith("Pins, rows and records")
    assert describe(_search()) == described


def test_describe_leaves_out_what_constants_exclude() -> None:
    described = describe(_search(), pins={"decoder": "gru"})
    assert [p.name for p in described.parameters] == ["decoder", "learning_rate", "dropout"]


def test_describe_finds_nested_and_joint_conditions() -> None:
    def nested(trial: Any) -> SmallConfig:
        decoder = trial.suggest_categorical("decoder", ("lstm", "gru", "transformer"))
        layers, heads, width, dropout = 1, 4, 64, 0.0
        if decoder != "lstm":
            layers = trial.suggest_int("layers", 1, 4)
        if decoder == "transformer" and layers >= 3:
            heads = trial.suggest_categorical("heads", (2, 4))
        if decoder == "lstm" or layers == 1:
            width = trial.suggest_int("width", 16, 256, log=True)
        if trial.suggest_float("learning_rate", 0.1, 1.0) > 0.5:
            dropout = trial.suggest_float("dropout", 0.0, 1.0)
        return SmallConfig(decoder=decoder, layers=layers, heads=heads, width=width, dropout=dropout, learning_rate=0.1)

    described = describe(_search(define=nested, rows={})).parameters
    assert [p.name for p in described] == ["decoder", "layers", "heads", "width", "learning_rate", "dropout"]
    words = {p.name: p.condition for p in described}
    assert words["layers"] == "only with decoder=gru|transformer"
    assert words["heads"] == "only with decoder=transformer and layers=3|4"
    # Neither "or" nor a threshold on a number can be said so: a share is.
    assert words["width"].endswith(" % of random trials")
    share = float(words["dropout"].removeprefix("in ").partition(" ")[0])
    assert 45 < share < 66  # five ninths


def _asking_for_more(trial: Any) -> SmallConfig:
    trial.suggest_int("haeds", 1, 2)
    return define(trial)


def _doubling(trial: Any) -> SmallConfig:
    return SmallConfig(heads=2 * trial.suggest_int("heads", 1, 4))


def _shifting(trial: Any) -> SmallConfig:
    shared = trial.suggest_categorical("shared", (True, False))
    return SmallConfig(shared=shared, heads=trial.suggest_categorical("heads", (2, 4) if shared else (4, 8)))


def _failing(trial: Any) -> SmallConfig:
    return SmallConfig(heads=trial.suggest_int("heads", 0, 3) // 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({"name": n}, "is not possible") for n in ("a/b", "../x", "/abs", "a\nb", "a\n", "", "x" * 65, ".x", "é")),
        ({"objective": "cidr"}, "objective='cidr' is unknown; did you mean 'cider'"),
        ({"columns": ("cider", "bleu")}, "columns='bleu' is unknown"),
        ({"group_by": "decodr"}, "group_by='decodr' is unknown; did you mean 'decoder'"),
        ({"base_row": "Transfomer"}, "base_row='Transfomer' is unknown; did you mean 'Transformer'"),
        ({"sampler": "nsga"}, "sampler='nsga' is unknown; did you mean 'nsga2'"),
        ({"pruner": "hyprband"}, "pruner='hyprband' is unknown; did you mean 'hyperband'"),
        ({"sampler": "grid"}, "learning_rate is a float from 0.0001 to 0.01: pin it with --set learning_rate=VALUE"),
        (
            {"further_objectives": ("parametrs",)},
            "further_objectives='parametrs' is unknown; did you mean 'parameters'",
        ),
        ({"further_objectives": ("cider",)}, "the objective 'cider' is named twice"),
        ({"further_objectives": ("parameters",), "pruner": "median"}, "pruner='median' is not possible with several"),
        ({"further_objectives": ("latency_ms",)}, "latency_ms is measured only with measure_latency=True"),
        ({"num_trials": 0}, "num_trials=0 is out of range"),
        ({"rows": {"a\nb": ROWS["GRU"]}}, "the row name"),
        ({"rows": {"x": {**ROWS["GRU"], "drop": 0.1}}}, "row 'x': unknown key 'drop'.*did you mean 'dropout'"),
        ({"rows": {"x": {**ROWS["GRU"], "heads": 2}}}, "row 'x': 'heads' is not asked with the row's other values"),
        ({"rows": {"x": {"decoder": "gru"}}}, "row 'x': it does not say '(learning_rate|dropout)'"),
        ({"rows": {"x": {**ROWS["GRU"], "objective": "val_loss"}}}, "says objective='val_loss', but .* after 'cider'"),
        ({"define": lambda t: SmallConfig(objective="score"), "rows": {}}, "says objective='score', but"),
        ({"rows": {"x": {**ROWS["GRU"], "epochs": -1}}}, "row 'x': epochs=-1 is out of range"),
        (
            {"define": _asking_for_more, "rows": {}},
            "parameter 'haeds' is no field of SmallConfig; did you mean 'heads'",
        ),
        ({"define": _doubling, "rows": {}}, "parameter 'heads': define was told . but returned heads="),
        ({"define": _shifting, "rows": {}}, "parameter 'heads': its kind and choices differ"),
        ({"define": _failing, "rows": {}}, r"define fails at .*test_space\.py:\d+: ZeroDivisionError"),
        ({"define": lambda t: {"heads": 2}, "rows": {}}, "define returned .*; it must return a SmallConfig"),
        (
            {"define": lambda t: SmallConfig(epochs=t.suggest_int("epochs", -5, -1)), "rows": {}},
            r"search 'small': epochs=-\d is out of range.* \(with epochs=-\d\)",
        ),
    ],
)
def test_check_refuses(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        check(_search(**changes))
    assert "\n" not in str(caught.value)


def test_check_accepts() -> None:
    check(_search(base_row="GRU", group_by="decoder", columns=("cider", "val_loss"), name="A-1_b.c"))
    check(_search(), pins={"dropout": 0.2})
    check(_search(), pins={"objective": "val_loss"})
    check(_search(columns=("cider", "latency_ms"), further_objectives=("parameters", "val_loss")))
    check(_search(further_objectives=("latency_ms",)), pins={"measure_latency": True})
    check(_search(sampler="grid"), pins={"learning_rate": 1e-3})
    check(_search(sampler="grid", num_trials=2))  # the rows alone
    with pytest.raises(BadInput, match="unknown key 'x'"):
        check(_search(), pins={"x": 0.2})


def test_an_example_is_the_base_row_or_always_the_same_draw() -> None:
    search = _search(base_row="Transformer")
    assert example(search) == resolve(search, None, row=ROWS["Transformer"]).config
    assert example(_search(), pins={"epochs": 1}).epochs == 1
    free = _search(rows={})
    assert example(free) == example(free)
    assert example(free, pins={"decoder": "gru"}).fields()["decoder"] == "gru"


# --- a person's own file

FILE = '''"""Is my own question answered?"""

from dataclasses import dataclass

from vltune.configuration import TrialConfig
from vltune.contract import Family, Search


@dataclass(frozen=True, kw_only=True)
class MyConfig(TrialConfig):
    heads: int = 2
    """Heads."""


class Mine(Family):
    name, Config, metrics = "mine", MyConfig, {"val_loss": "min"}


def define(trial):
    return MyConfig(heads=trial.suggest_categorical("heads", (2, 4)))


SEARCH = Search(name="mine", family=Mine, define=define, objective="val_loss", num_trials=3)
'''


def test_a_file_of_ones_own_with_a_family_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "my search.py"
    path.write_text(FILE)
    search = load_search(str(path), {})
    check(search)
    assert (search.name, search.question) == ("mine", "Is my own question answered?")
    assert load_search(str(path), {}).family is search.family
    path.write_text(FILE.replace("(2, 4)", "(2, 8)"))  # same size, same second: no bytecode may stand in
    assert describe(load_search(str(path), {})).parameters[0].choices == (2, 8)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ndef define(:\n", r"mine\.py:2: invalid syntax"),
        ("x = 1\n\ny = 1 / 0\n", r"mine\.py:3: ZeroDivisionError: division by zero"),
        ("import no_such_module_here\n", r"mine\.py:1: ModuleNotFoundError"),
        (FILE.replace("SEARCH =", "SEARCHES ="), r"mine\.py:1: defines no SEARCH; write SEARCH = Search"),
        ("x = 1\nSEARCH = {'name': 'x'}\n", r"mine\.py:2: SEARCH is a dict; write SEARCH = Search"),
        (FILE.replace("num_trials=3", "number=3"), r"mine\.py:23: TypeError: .*number"),
        (FILE.replace('"""Heads."""', "raise ValueError('one\\ntwo')"), r"mine\.py:12: ValueError: one two"),
        ("x = 1\n\0", r"mine\.py:\d+: .*null bytes"),
        ("x = '\xff'".encode("latin-1"), r"mine\.py:\d+: "),
    ],
)
def test_a_broken_file_is_one_line_with_its_place(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput, match=said) as caught:
        load_search(str(path), {})
    assert "\n" not in str(caught.value)


def test_names_are_looked_up(tmp_path: Path) -> None:
    table = {"small": _search()}
    assert load_search("small", table).define is define
    assert load_search("small", {"small": _search(question="Why?")}).question == "Why?"
    with pytest.raises(NotFound, match=r"unknown search 'smal'; did you mean 'small'.*path of a Python file"):
        load_search("smal", table)
    with pytest.raises(NotFound, match=r"none\.py: there is no such file"):
        load_search(str(tmp_path / "none.py"), table)


def test_pins_may_change_two_fields_that_only_fit_together() -> None:
    search = SEARCHES["quickstart"]
    pins = {"decoder": "transformer", "embedding_width": 120, "heads": 3}
    config = resolve(search, None, row=search.rows["Transformer"], pins=pins).config
    assert (config.fields()["embedding_width"], config.fields()["heads"]) == (120, 3)
    alone = dataclasses.replace(search, rows={}, base_row="")
    assert {c.fields()["heads"] for c in check(alone, pins=pins)} == {3}
    again = record_pins(search, config.fields())
    assert resolve(search, None, pins=again).config == config
    with pytest.raises(BadInput, match="heads=7 does not divide embedding_width=120"):
        resolve(search, None, row=search.rows["Transformer"], pins={**pins, "heads": 7})
