"""The commands of docs/chain.md, word for word, on real pictures: each step starts from what was promoted before."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from integration.runs import run, said

from trainables import FAMILIES
from vltune.checkpoints import sha256
from vltune.configuration import named
from vltune.ledger import Ledger
from vltune.registry import Registry
from vltune.tracking import Tracker

pytestmark = [pytest.mark.integration, pytest.mark.proof, pytest.mark.timeout(3000)]

PAGE = (Path(__file__).parents[2] / "docs" / "chain.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]

COMPARED = ("captioning", "capdec_noise", "decoding")


@pytest.mark.shared_data
def test_the_chain_on_flickr8k(shared_data: Path, tmp_path: Path) -> None:
    folder = str(shared_data / "flickr8k")
    shown: dict[str, str] = {}
    for command in COMMANDS:
        words = [os.path.expandvars(word.replace("$FLICKR8K", folder)) for word in shlex.split(command)]
        code, out = run(*words[1:], cwd=tmp_path, timeout=1800)
        assert code == 0, (command, said(tmp_path))
        shown[words[1] + " " + words[2] if len(words) > 2 else words[1]] = out
    storage = tmp_path / "runs"
    ledger, tracker = Ledger.existing(storage), Tracker(storage)
    registry = Registry(tracker)

    def hashes(run_name: str) -> dict[str, str]:
        trial = next(t for t in ledger.trials(run_name) if t.state == "finished")
        family = FAMILIES[ledger.search(run_name).family]
        return named(family.Config.from_fields(trial.config), "source_hashes")

    def promoted(name: str) -> str:
        return sha256(registry.resolve(f"{name}@champion").folder / "MANIFEST.json")

    assert hashes("retrieval") == {"picture_encoder": promoted("pretraining_rotation")}
    assert hashes("capdec_noise") == {"embedder": promoted("retrieval")}
    assert hashes("decoding") == {"captioner": promoted("capdec_noise")}
    models = {model.name for model in registry.models()}
    assert models == {"pretraining_rotation", "retrieval", "capdec_noise", "flickr8k"}
    found = [line.split() for line in shown["predict retrieval@champion"].splitlines()[1:]]
    assert [float(similarity) for similarity, _ in found] == sorted((float(s) for s, _ in found), reverse=True)
    assert len(found) == 3
    compared = json.loads(run("compare", *COMPARED, "--sort", "cider", "--json", cwd=tmp_path)[1])["rows"]
    assert {row["run"] for row in compared} == {*COMPARED}
    best = next(model for model in registry.models() if model.name == "flickr8k")
    assert (best.trial_uid, best.run) == (compared[0]["uid"], compared[0]["run"]), "the winner is promoted"
    for name in (*COMPARED, "pretraining_rotation", "retrieval"):
        record = ledger.search(name)
        parent = tracker.find_parent(record.uid, search=record.search)
        assert parent
        for trial in ledger.trials(name):
            found_run = tracker.find_run(trial.uid, parent=parent)
            assert found_run
            state = tracker.client.get_run(found_run).data.tags["vltune.state"]
            assert state == trial.state, trial.uid
    assert ".jpg: " in shown["predict flickr8k@champion"]
    rotated = ledger.epochs(ledger.trials("pretraining_rotation")[0].uid)
    assert max(report.metrics["accuracy"] for report in rotated) > 0.3, "chance is 0.2"
