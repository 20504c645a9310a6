"""Checkpoints: killed while they are written, damaged afterwards, and weights from elsewhere."""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families import Line, LineConfig
from safetensors.torch import save_file
from torch import nn

from vltune import checkpoints, models
from vltune.checkpoints import (
    MANIFEST,
    MODEL,
    Corrupt,
    commit,
    keep_only,
    latest,
    read_foreign_weights,
    read_tensors,
    tensor_shapes,
    verify,
    write_tensors,
)
from vltune.errors import BadInput, NotFound
from vltune.models import CONFIG, load_weights, read_model, write_model

torch.set_num_threads(1)


def write(folder: Path) -> None:
    """A model, and beside it what else a checkpoint has."""
    torch.manual_seed(3)
    record = {"family": "line", "config": LineConfig(seed=3).fields(), "assets": ["notes.txt"]}
    write_model(folder, Line(LineConfig(), {}), record=record, assets={"notes.txt": "ä line\n"})
    write_tensors(folder / checkpoints.OPTIMIZER, {"0.step": torch.tensor(4.0), "0.exp_avg": torch.randn(3, 2)})
    (folder / checkpoints.STATE).write_text('{"progress": {"epoch": 1}, "reports": []}')
    (folder / checkpoints.SAMPLES).mkdir()
    (folder / checkpoints.SAMPLES / "samples.json").write_text("[]")


# -- kills

DIE = """
import os, sys
from pathlib import Path
import vltune.checkpoints as c

point, parent = sys.argv[1], Path(sys.argv[2])

def dies_in(name, owner=c, *, after=False, on=lambda *a: True):
    real = getattr(owner, name)
    def replaced(*a, **k):
        if on(*a) and not after:
            os._exit(9)
        result = real(*a, **k)
        if on(*a):
            os._exit(9)
        return result
    setattr(owner, name, replaced)

def write(folder):
    (folder / "a.json").write_text("2")
    if point == "half written":
        os._exit(9)
    (folder / "b.json").write_text("2")

if point == "first flush": dies_in("_flush")
if point == "manifest draft": dies_in("rename", Path)
if point == "manifest in place": dies_in("rename", Path, after=True)
if point == "folder flush": dies_in("_flush", on=lambda p: p.is_dir())
new = c.commit(parent, 2, write)
if point == "committed": os._exit(9)
if point == "removing": dies_in("rmtree", c.shutil)
if point == "half removed": dies_in("unlink", c.Path, after=True)
c.keep_only(parent, [new.folder])
os._exit(0)
"""
BEFORE = ("half written", "first flush", "manifest draft")
AFTER = ("manifest in place", "folder flush", "committed", "removing", "half removed", "nowhere")


@pytest.mark.parametrize("point", BEFORE + AFTER)
def test_kill_at_any_point_leaves_a_whole_checkpoint(tmp_path: Path, point: str) -> None:
    commit(tmp_path, 1, lambda folder: [(folder / f"{n}.json").write_text("1") for n in "ab"] and None)
    done = subprocess.run([sys.executable, "-c", DIE, point, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == (0 if point == "nowhere" else 9)
    found = latest(tmp_path)
    assert found is not None
    wanted = 1 if point in BEFORE else 2
    assert (found.epoch, found.read_json("a.json"), found.read_json("b.json")) == (wanted, wanted, wanted)
    keep_only(tmp_path, [found.folder])
    assert [path.name for path in tmp_path.iterdir()] == [found.folder.name], "whatever was left half done is removed"


def test_manifest_comes_after_every_file_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    real = checkpoints._flush

    def watched(path: Path) -> None:
        assert not (path.parent / MANIFEST).exists() or path.is_dir()
        flushed.append(path.name)
        real(path)

    monkeypatch.setattr(checkpoints, "_flush", watched)
    folder = commit(tmp_path, 1, write).folder
    files = {path.name for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    assert files < set(flushed)
    assert flushed[-3:] == [f".{MANIFEST}", folder.name, tmp_path.name]


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        (folder / "a.json").write_text("1")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        commit(tmp_path, 1, full)
    assert list(tmp_path.iterdir()) == []


def test_two_commits_of_one_epoch_do_not_meet(tmp_path: Path) -> None:
    first, second = (commit(tmp_path, 7, write) for _ in range(2))
    assert first.folder != second.folder
    assert first.epoch == second.epoch == 7


# -- damage


def mutate(folder: Path, rng: random.Random) -> str:
    """Flips a bit of a file, cuts it, appends to it, empties it or removes it; returns what was done."""
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    content = bytearray(path.read_bytes())
    kind = rng.choice(("flip", "flip", "flip", "cut", "append", "remove", "swap"))
    where = rng.randrange(len(content))
    if kind == "flip":
        content[where] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[where:]
    elif kind == "append":
        content += b"?"
    elif kind == "swap":
        content[where : where + 4] = bytes(255 - b for b in content[where : where + 4])
    path.unlink()  # it is a hard link
    if kind != "remove":
        path.write_bytes(content)
    return f"{kind} {path.name} at {where}"


def test_thousand_damaged_checkpoints_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_flush", lambda path: None)
    rng = random.Random(0)
    before = commit(tmp_path / "trial", 1, write)
    sound = commit(tmp_path / "sound", 2, write)
    missed = []
    for number in range(1000):
        folder = tmp_path / "trial" / f"epoch-0002.{number:08x}"
        shutil.copytree(sound.folder, folder, copy_function=os.link)
        what = mutate(folder, rng)
        try:
            read_model(folder, {"line": Line})
            missed.append(f"loaded: {what}")
        except (Corrupt, BadInput):
            pass
        found = latest(tmp_path / "trial")
        if found is None or found.folder != before.folder:
            missed.append(f"taken: {what}")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(tmp_path / "trial" / f"bad-{folder.name}", ignore_errors=True)
    assert missed == []
    verify(sound.folder)


def test_damaged_one_is_set_aside_and_stays(tmp_path: Path) -> None:
    first, second = commit(tmp_path, 1, write), commit(tmp_path, 2, write)
    (second.folder / MODEL).unlink()
    assert latest(tmp_path) == first
    assert (tmp_path / f"bad-{second.folder.name}").is_dir()
    keep_only(tmp_path, [])
    assert [path.name for path in tmp_path.iterdir()] == [f"bad-{second.folder.name}"]
    assert latest(tmp_path) is None
    assert latest(tmp_path / "never") is None


def test_worker_that_finds_the_bad_one_gone_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = commit(tmp_path, 1, write), commit(tmp_path, 2, write)

    def verified_by_two(folder: Path) -> None:
        if folder == second.folder:
            shutil.rmtree(folder)  # another worker has just set it aside
            raise Corrupt("gone")

    monkeypatch.setattr(checkpoints, "verify", verified_by_two)
    assert latest(tmp_path) == first


# -- what is stored comes back


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.out = nn.Linear(8, 50, bias=False)
        self.out.weight = self.words.weight
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("none", torch.zeros(0))
        self.register_buffer("steps", torch.tensor(5))


def test_tied_tensors_are_stored_once_and_restored(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    write_tensors(tmp_path / "tied.safetensors", model.state_dict())
    assert (tmp_path / "tied.safetensors").stat().st_size < 50 * 8 * 4 * 1.5
    load_weights(other, read_tensors(tmp_path / "tied.safetensors"))
    assert torch.equal(other.out.weight, model.words.weight)
    assert other.out.weight is other.words.weight


def test_views_of_one_storage_come_back_as_they_were(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "rows": whole[:2], "turned": whole.T, "last": whole[2]}
    write_tensors(tmp_path / "views.safetensors", tensors)
    found = read_tensors(tmp_path / "views.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)


def test_model_comes_back_whole(tmp_path: Path) -> None:
    folder = commit(tmp_path, 1, write).folder
    torch.manual_seed(3)
    wanted = Line(LineConfig(), {})
    model, config = read_model(folder, {"line": Line})
    assert config == LineConfig(seed=3)
    assert not model.training
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert models.read_assets(folder, models.read_record(folder)) == {"notes.txt": "ä line\n"}
    with pytest.raises(NotFound, match="unknown model family 'line'"):
        read_model(folder, {"other": Line})
    with pytest.raises(BadInput, match=f"holds no model: {CONFIG} is missing"):
        read_model(tmp_path, {"line": Line})


def test_weights_must_fit_exactly() -> None:
    model = Line(LineConfig(), {})
    state = model.state_dict()
    fewer = {name: tensor for name, tensor in state.items() if name != "head.bias"}
    for wrong in (fewer, state | {"head.weight": torch.zeros(3, 2)}):
        with pytest.raises(Corrupt, match="do not fit the model"):
            load_weights(model, wrong)
    with pytest.raises(Corrupt, match="do not fit the model"):
        load_weights(model, state | {"more": torch.zeros(1)})


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "a/b.txt", "..", ""])
def test_asset_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder)
    record = json.loads((folder / CONFIG).read_text()) | {"assets": [name]}
    (folder / CONFIG).write_text(json.dumps(record))
    checkpoints.seal(folder)
    with pytest.raises(BadInput, match="names an asset outside its folder"):
        read_model(folder, {"line": Line})


# -- weights from elsewhere


class Payload:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    content = {"weight": torch.zeros(2), "more": Payload(trace)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(BadInput, match="is not a file of plain weights") as raised:
        read_foreign_weights(path)
    assert "\n" not in str(raised.value)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists(), "the payload would have worked"


def test_foreign_weights_are_read_and_their_hash_checked(tmp_path: Path) -> None:
    weights = {"a": torch.randn(2, 3)}
    torch.save({"state_dict": weights}, tmp_path / "a.pth")
    save_file(weights, tmp_path / "a.safetensors")
    for path in (tmp_path / "a.pth", tmp_path / "a.safetensors"):
        right = checkpoints.sha256(path)[:8]
        assert torch.equal(read_foreign_weights(path, sha256_prefix=right)["a"], weights["a"])
        with pytest.raises(BadInput, match="expected 00000000…; remove it and fetch it again"):
            read_foreign_weights(path, sha256_prefix="00000000")
    with pytest.raises(NotFound, match="there is no weights file"):
        read_foreign_weights(tmp_path / "b.pth")


def test_foreign_files_of_other_things_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("<html>")
    (tmp_path / "text.safetensors").write_text("<html>")
    save_file({"a": torch.zeros(1)}, tmp_path / "alias.safetensors", metadata={"aliases": '{"b": "c"}'})
    save_file({"a": torch.zeros(1)}, tmp_path / "list.safetensors", metadata={"aliases": "[1]"})
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(BadInput) as raised:
            read_foreign_weights(path)
        assert "\n" not in str(raised.value)


def test_shapes_are_read_without_the_tensors(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file(
        {"matrix": torch.zeros(3, 2), "scalar": torch.zeros(()), "half": torch.zeros(5, dtype=torch.bfloat16)}, file
    )
    assert tensor_shapes(file) == {"matrix": (3, 2), "scalar": (), "half": (5,)}
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(Corrupt, match="is not a sound safetensors file"):
        tensor_shapes(file)
