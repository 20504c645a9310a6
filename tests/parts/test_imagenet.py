"""Finding and fetching weights, with files in place of the network."""

import hashlib
import urllib.error
from pathlib import Path

import pytest
import torch

from trainables.parts.imagenet import imagenet_file
from vltune.errors import BadInput

CONTENT = bytes(range(256)) * 9000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served(tmp_path: Path) -> str:
    """The address of a file with its hash in its name."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / f"net-{DIGEST[:8]}.pth").write_bytes(CONTENT)
    return f"{folder.as_uri()}/net-{DIGEST[:8]}.pth"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLTUNE_WEIGHTS", str(tmp_path / "weights" / "deep"))
    return tmp_path / "weights" / "deep"


def test_a_missing_file_is_fetched_whole(served: str, folder: Path) -> None:
    file, prefix = imagenet_file(served)
    assert file == folder / f"net-{DIGEST[:8]}.pth"
    assert prefix == DIGEST[:8]
    assert file.read_bytes() == CONTENT
    assert [f.name for f in folder.iterdir()] == [file.name]


def test_a_present_file_needs_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
    folder.mkdir(parents=True)
    (folder / "net-01234567.pth").write_bytes(b"present")
    assert imagenet_file("https://example.org/net-01234567.pth")[0].read_bytes() == b"present"


def test_the_default_folder_is_that_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLTUNE_WEIGHTS", raising=False)
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / ".cache" / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "net-01234567.pth").touch()
    assert imagenet_file("https://example.org/net-01234567.pth")[0] == folder / "net-01234567.pth"


def test_a_file_with_another_hash_is_not_kept(served: str, folder: Path) -> None:
    wrong = served.replace(DIGEST[:8], "00000000")
    Path(served.removeprefix("file://")).rename(wrong.removeprefix("file://"))
    with pytest.raises(BadInput, match=f"SHA-256 {DIGEST[:12]}…, expected 00000000…"):
        imagenet_file(wrong)
    assert list(folder.iterdir()) == []


def test_without_a_network_one_line_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_, timeout: float):
        assert timeout <= 10
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(BadInput) as error:
        imagenet_file("https://example.org/models/net-01234567.pth")
    text = str(error.value)
    assert "needs the file net-01234567.pth" in text
    assert (
        f"fetch https://example.org/models/net-01234567.pth where there is a network and put it into {folder}." in text
    )
    assert "\n" not in text
    assert list(folder.iterdir()) == []


def test_a_broken_transfer_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            return None

        def read(self, size: int) -> bytes:
            raise ConnectionResetError("reset")

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Broken())
    with pytest.raises(BadInput, match="reset"):
        imagenet_file("https://example.org/net-01234567.pth")
    assert list(folder.iterdir()) == []
