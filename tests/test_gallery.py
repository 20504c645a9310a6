"""Which pictures a gallery shows."""

import math

from vltune.gallery import APART, BEST, SOME, USUAL, WORST, choose


def test_best_usual_and_worst_by_the_mean() -> None:
    scores = {str(i): [i / 10, i / 10] for i in range(20)}
    chosen = choose(scores, "max", of_each=2)
    assert chosen == {BEST: ["19", "18"], USUAL: ["10", "9"], WORST: ["1", "0"]}
    assert choose(scores, "min", of_each=2)[BEST] == ["0", "1"]


def test_where_models_lie_apart() -> None:
    scores = {str(i): [0.5, 0.5 + 0.001 * i] for i in range(20)}
    scores["5"] = [0.9, 0.105]  # the same mean as before
    chosen = choose(scores, "max", of_each=2)
    assert chosen[APART][0] == "5"
    flat = [i for ids in chosen.values() for i in ids]
    assert len(flat) == len({*flat})


def test_few_pictures_and_no_scores() -> None:
    assert choose({"a": [0.1], "b": [0.3], "c": [0.2]}, "max", of_each=3) == {BEST: ["b"], USUAL: ["c"], WORST: ["a"]}
    assert choose({"a": [], "b": []}, "max", of_each=3) == {SOME: ["a", "b"]}
    assert choose({"a": [math.nan], "b": [1.0]}, "max", of_each=3) == {SOME: ["a", "b"]}
    assert choose({}, "max", of_each=3) == {}
