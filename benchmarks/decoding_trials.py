"""What a decoding trial costs, and how much of that is decoding.

A small captioner is trained and promoted; then the search ``decoding`` runs over the first validation pictures, as a
user would run it. Its wall time is told apart: until Ray's workers write the first caption, the trials, and what
follows the last one. How captions and scores share a trial's time is measured here, with every tenth trial again.

    python benchmarks/decoding_trials.py [FOLDER] [--trials 200] [--pictures 100]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from trainables.captioning import Captioning, CaptioningConfig
from trainables.decoding import Decoding, DecodingTrialConfig
from trainables.parts.scenes import write_scenes
from vltune.ledger import Ledger
from vltune.ledger_records import TrialRecord
from vltune.library import PromotedModels
from vltune.models import stood_on

CAPTIONER = ["--set", "epochs=3", "captions_per_picture=2"]


def say(text: str) -> None:
    """Prints at once, so that what is slow can be seen."""
    print(text, flush=True)


def vltune(*arguments: object, cwd: Path) -> float:
    """Runs a command, whose progress goes to standard error; returns its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "vltune.cli", *map(str, arguments)]
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def decode_again(storage: Path, trials: Sequence[TrialRecord]) -> tuple[float, float]:
    """Seconds of writing the captions of some trials again, with one thread and nothing beside, and of their scores."""
    cache = str(storage / "cache")
    written = scored = 0.0
    torch.set_num_threads(1)
    for trial in trials:
        config = DecodingTrialConfig.from_fields(trial.config).find_sources(PromotedModels(storage))
        split = Decoding.load(config, cache).splits["validation"]
        model = Decoding(config, {}, stood_on(Decoding, config, cache=cache)).eval()
        parts = [range(i, min(i + config.batch_size, len(split))) for i in range(0, len(split), config.batch_size)]
        with torch.no_grad():
            start = time.perf_counter()
            records = [r for part in parts for r in model.predict(model.collate([split[i] for i in part], None))]
            written += time.perf_counter() - start
            start = time.perf_counter()
            model.score(records)
            scored += time.perf_counter() - start
    return written, scored


def prepare(place: Path, folder: Path, *, pictures: int) -> int:
    """Trains and promotes a captioner; returns how many validation pictures there are to caption."""
    seconds = vltune("train", "quickstart", "--name", "captioner", "--data", folder, *CAPTIONER, cwd=place)
    say(f"a captioner was trained in {seconds:.1f} s")
    seconds = vltune("promote", "captioner", cwd=place)
    say(f"it was promoted in {seconds:.1f} s")
    config = CaptioningConfig.from_fields(Ledger.existing(place / "runs").trials("captioner")[0].config)
    return min(pictures, len(Captioning.load(config, str(place / "runs" / "cache")).splits["validation"]))


def main() -> None:
    """Prints the times."""
    parser = argparse.ArgumentParser(description="Measures what a decoding trial costs.")
    parser.add_argument("folder", nargs="?", type=Path, help="a data set; generated pictures if left out")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=100, help="at most as many as the validation split has")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        folder = arguments.folder.absolute() if arguments.folder else place / "scenes"
        if arguments.folder is None:
            write_scenes(str(folder))
        pictures = prepare(place, folder, pictures=arguments.pictures)
        say(f"searching: {arguments.trials} trials on {pictures} pictures")
        settings = ["--data", folder, "--trials", arguments.trials, "--set", f"pictures={pictures}"]
        began = time.time()
        whole = vltune("search", "decoding", *settings, cwd=place)
        ledger = Ledger.existing(place / "runs")
        record, trials = ledger.search("decoding"), ledger.trials("decoding")
        reports = [(e.time, e.metrics["evaluate_seconds"]) for t in trials for e in ledger.epochs(t.uid)]
        first = min(ended - seconds for ended, seconds in reports)
        last = max(ledger.times(trial.uid)[1] for trial in trials)
        evaluated = sum(seconds for _, seconds in reports)
        slots, states = record.concurrent or 1, dict(Counter(t.state for t in trials))
        say(f"{len(trials)} trials on {pictures} pictures in {slots} slots: {whole:.1f} s, {states}")
        say(f"imports and data: {record.created - began:.1f} s; Ray and its workers: {first - record.created:.1f} s")
        say(f"trials: {last - first:.1f} s; table, plots, MLflow, Ray's end: {began + whole - last:.1f} s")
        share, rest = evaluated / slots / whole, evaluated / slots / (last - first)
        say(f"captions and scores, summed over slots: {evaluated:.1f} s, {share:.0%} of all, {rest:.0%} of the trials")
        written, scored = decode_again(place / "runs", [t for t in trials if t.state == "finished"][::10])
        say(f"of these, measured alone: {written / (written + scored):.0%} captions, the others scores")


if __name__ == "__main__":
    main()
