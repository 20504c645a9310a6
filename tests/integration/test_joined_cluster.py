"""A search on a Ray cluster that runs already: with one node, and with a second one that sees another disk."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.runs import TOY, run, said

from vltune.ledger import Ledger

pytestmark = [pytest.mark.integration, pytest.mark.proof, pytest.mark.timeout(900)]

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
PORT = 6391

WAIT = """
import sys, time, ray
for _ in range(60):
    try:
        ray.init("auto", log_to_driver=False, logging_level="ERROR")
        break
    except ConnectionError:
        time.sleep(1)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    time.sleep(0.5)
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The head of a cluster behind a token, as ``cluster.yaml`` starts it, but on this machine."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_TMPDIR", str(Path("/tmp") / f"vltune-{os.getpid()}"))  # socket paths have to be short
    start = [*RAY, "start", "--head", f"--port={PORT}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    # Not `ray stop`, which would end every Ray of this machine.
    head = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{PORT}")
    try:
        subprocess.run([sys.executable, "-c", WAIT, "1"], check=True, timeout=120)
        yield f"127.0.0.1:{PORT}"
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_one_node_works_and_a_node_without_the_storage_is_refused(cluster: str, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    search = ("search", TOY, "--address", "auto", "--trials", 2, "--concurrent", 1, "--set", "epochs=1")
    code, _ = run(*search, "--name", "alone", cwd=tmp_path)
    assert code == 0, said(tmp_path)
    assert [trial.state for trial in Ledger.of(storage).trials("alone")] == ["finished", "finished"]

    join = f"mount -t tmpfs none {storage} && exec {' '.join(RAY)} start --address={cluster} --num-cpus=1 --block"
    node = subprocess.Popen(["unshare", "-m", "sh", "-c", join], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        subprocess.run([sys.executable, "-c", WAIT, "2"], check=True, timeout=120)
        code, out = run(*search, "--name", "apart", cwd=tmp_path)
    finally:
        node.terminate()
        node.wait(60)
    assert (code, out) == (2, ""), said(tmp_path)
    assert "is not shared with 1 of 2 nodes" in said(tmp_path).splitlines()[-1]
    assert "apart" not in {record.name for record in Ledger.of(storage).searches()}


def test_no_cluster_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, out = run("search", TOY, "--address", "127.0.0.1:1", "--trials", 1, cwd=tmp_path)
    assert (code, out) == (4, "")
    assert said(tmp_path).splitlines()[-1].startswith("error: no Ray cluster answers at '127.0.0.1:1'")
    assert Ledger.of(tmp_path / "runs").searches() == []
