"""What one more trial costs beside its training, with ledger, MLflow and checkpoints on.

A family that sleeps one second an epoch is searched with 4 and with 40 trials of one epoch, in turn:

    cost = ((T40 - T4) - 36 x 1 s / slots) / 36

With ``--isolate`` the same for 2 and 6 trials in fresh processes, as the stock tools start them.

    python benchmarks/marginal_cost.py [--repeats N] [--isolate]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOY = Path(__file__).parents[1] / "tests" / "integration" / "toy_search.py"
SLOTS = 2


def seconds(trials: int, *options: str) -> float:
    """How long a whole search of so many trials takes, start-up included."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vltune.cli", "search", str(TOY), "--trials", str(trials)]
        command += ["--concurrent", str(SLOTS), "--set", "epochs=1", "epoch_seconds=1", *options]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - start


def main() -> None:
    """Prints the cost of each repeat and the median."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--isolate", action="store_true")
    arguments = parser.parse_args()
    few, many, options = (2, 6, ["--isolate"]) if arguments.isolate else (4, 40, [])
    costs = []
    for _ in range(arguments.repeats):
        short, long = seconds(few, *options), seconds(many, *options)
        costs.append(((long - short) - (many - few) / SLOTS) / (many - few))
        print(f"T{few} {short:.1f} s, T{many} {long:.1f} s: {costs[-1]:.3f} s for each further trial", flush=True)
    print(f"median {statistics.median(costs):.3f} s")


if __name__ == "__main__":
    main()
