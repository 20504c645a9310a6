"""How long a model takes for one sample alone: a caption at batch 1."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from vltune.contract import Family, Sample
from vltune.devices import to_device

KEY = "latency_ms"

TIMED = 12
"""Predictions that are timed, at most, after one that warms up."""
FEWEST = 3
"""Fewer say nothing."""
FIRST_SECONDS = 2.0
"""What measuring may cost in a trial's first evaluation, unless ``FEWEST`` predictions are slower."""
LATER_SHARE = 0.02
"""What it may cost in a later epoch, as a share of that epoch's time."""


def seconds_for_latency(metrics: Mapping[str, float], known: float, *, best: bool, always: bool) -> float:
    """Seconds that may go into measuring the latency in this epoch; 0 where the known value stays.

    Args:
        metrics: of this epoch.
        known: milliseconds, from an earlier epoch; NaN if there is none.
        best: whether this epoch is the best so far.
        always: whether it is to be measured in each epoch, whatever it costs.
    """
    if always:
        return math.inf
    if math.isnan(known):
        return FIRST_SECONDS
    room = LATER_SHARE * (metrics.get("train_seconds", 0.0) + metrics["evaluate_seconds"])
    return room if best and known / 1000 * (1 + FEWEST) <= room else 0.0


def latency(
    model: Family, samples: Sequence[Sample], *, device: torch.device, room: float, tick: Callable[[], None]
) -> float:
    """Median milliseconds from a sample, opened, to its prediction, without others beside it.

    Args:
        model: in evaluation mode.
        samples: the first ones are taken.
        device: where the model is.
        room: seconds after which no further prediction is timed, once there are ``FEWEST``.
        tick: called after each prediction.
    """
    seconds: list[float] = []
    with torch.no_grad():
        for number in range(1 + TIMED):
            sample = samples[number % len(samples)]
            _ = sample.picture
            start = time.perf_counter()
            model.predict(to_device(model.collate([model.alone(sample)], None), device))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
            tick()
            if number >= FEWEST and sum(seconds) > room:
                break
    return 1000 * statistics.median(seconds[1:])
