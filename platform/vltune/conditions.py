"""What random runs of ``define`` show of a space: its parameters in order, and when each of them is asked."""

from collections.abc import Mapping, Sequence

from vltune.parameters import Parameter, PinnedTrial, Plain, plain_text


def in_order(runs: Sequence[PinnedTrial]) -> list[Parameter]:
    """All parameters; one that only some runs ask for stands behind the one that they asked for just before it."""
    merged: list[Parameter] = []
    for asked in dict.fromkeys(tuple(run.asked.values()) for run in runs):
        place = 0
        for parameter in asked:
            if parameter not in merged:
                merged.insert(place, parameter)
            place = merged.index(parameter) + 1
    return merged


def condition_of(parameter: Parameter, runs: Sequence[PinnedTrial]) -> str:
    """When a parameter is asked, as the shortest list of other parameters' values that says it exactly."""
    active = [run.asked.get(parameter.name) == parameter for run in runs]
    if all(active):
        return ""
    seen: dict[str, set[Plain]] = {}
    for run in runs:
        for name, value in run.values.items():
            seen.setdefault(name, set()).add(value)
    allowed: dict[str, set[Plain]] = {}
    users = [run for run, is_active in zip(runs, active, strict=True) if is_active]
    for name in seen:
        values = {run.values[name] for run in users if name in run.values}
        if all(name in run.values for run in users) and values != seen[name] and len(seen[name]) <= 16:
            allowed[name] = values

    def exact(chosen: Mapping[str, set[Plain]]) -> bool:
        return [all(run.values.get(k) in v for k, v in chosen.items()) for run in runs] == active

    # The weakest conditions are dropped first: what is left is needed.
    for name in sorted(allowed, key=lambda n: (-len(allowed[n]) / len(seen[n]), n)):
        fewer = {k: v for k, v in allowed.items() if k != name}
        allowed = fewer if fewer and exact(fewer) == exact(allowed) else allowed
    if not allowed or not exact(allowed):
        return f"in {100 * sum(active) / len(active):.0f} % of random trials"
    return "only with " + " and ".join(_values(k, v, seen[k] - v) for k, v in allowed.items())


def _values(name: str, allowed: set[Plain], others: set[Plain]) -> str:
    if len(others) == 1 and len(allowed) > 2:
        return f"{name} other than {plain_text(min(others))}"
    return f"{name}={'|'.join(map(plain_text, sorted(allowed, key=lambda v: (isinstance(v, str), v))))}"
