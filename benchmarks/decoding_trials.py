"""What a decoding trial costs, and how much of that is decoding.

A small captioner is trained on generated pictures and promoted; then the search ``decoding`` runs on 100 validation
pictures. Afterwards the same captions are written again in this process, trial by trial and nothing else: that is the
time of decoding alone.

    python benchmarks/decoding_trials.py [--trials 200] [--pictures 100]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from trainables import FAMILIES
from trainables.decoding import DecodingTrialConfig
from vltune.ledger import Ledger
from vltune.library import PromotedModels
from vltune.models import stood_on


def vltune(*arguments: object, cwd: Path) -> str:
    """Runs a command; returns its standard output."""
    command = [sys.executable, "-m", "vltune.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def decode_alone(storage: Path, run: str) -> tuple[float, float]:
    """Seconds of writing the captions of all finished trials again, and of their scores."""
    family, cache = FAMILIES["decoding"], str(storage / "cache")
    written = scored = 0.0
    torch.set_num_threads(1)
    for trial in Ledger.existing(storage).trials(run):
        config = DecodingTrialConfig.from_fields(trial.config).find_sources(PromotedModels(storage))
        split = family.load(config, cache).splits["validation"]
        model = family(config, {}, stood_on(family, config, cache=cache)).eval()
        with torch.no_grad():
            batches = [
                model.collate([split[i] for i in range(first, min(first + config.batch_size, len(split)))], None)
                for first in range(0, len(split), config.batch_size)
            ]
            start = time.perf_counter()
            records = [record for batch in batches for record in model.predict(batch)]
            written += time.perf_counter() - start
            start = time.perf_counter()
            model.score(records)
            scored += time.perf_counter() - start
    return written, scored


def main() -> None:
    """Prints the times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        vltune("train", "quickstart", "--name", "captioner", "--set", "epochs=2", cwd=folder)
        vltune("promote", "captioner", cwd=folder)
        settings = ["--set", f"pictures={arguments.pictures}", "max_tokens=24"]
        start = time.perf_counter()
        out = vltune("search", "decoding", "--trials", arguments.trials, *settings, "--json", cwd=folder)
        whole = time.perf_counter() - start
        states = json.loads(out)["trials"]
        ledger = Ledger.existing(folder / "runs")
        trials = ledger.trials("decoding")
        evaluated = sum(e.metrics["evaluate_seconds"] for t in trials for e in ledger.epochs(t.uid))
        written, scored = decode_alone(folder / "runs", "decoding")
    print(f"{arguments.trials} trials on {arguments.pictures} pictures: {whole:.1f} s, start of Ray included; {states}")
    print(f"evaluation in the trials, summed over slots: {evaluated:.1f} s")
    print(f"the same again in one process: captions {written:.1f} s, scores {scored:.1f} s")


if __name__ == "__main__":
    main()
