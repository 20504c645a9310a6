"""How a search may choose what is tried next, and what it stops: names, and what each is.

Nothing is imported here, so that the command line can offer the names without waiting for torch or Optuna.
"""

SAMPLERS = {
    "tpe": "learns from all trials which values are promising, branches of the space included",
    "gp": "a Gaussian process over the parameters that all trials have; branches are left to tpe",
    "nsga2": "a genetic algorithm, made for several objectives; parameters of branches are drawn at random",
    "random": "draws each trial anew",
    "grid": "every combination of values, in order",
}
"""Samplers. ``study.py`` has one function for each."""

PRUNERS = {
    "none": "every trial runs to its end",
    "successive_halving": "of three trials that come equally far, one goes on",
    "hyperband": "successive halving that begins at different epochs, so that slow starters have a chance",
    "median": "stops what is worse than half of the finished trials were at the same epoch",
}
"""Pruners. Named rows run to their end, whichever it is."""
