"""cluster.yaml: accepted by Ray's own launcher, safe by default, and made of shell commands that parse."""

import copy
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from sqlalchemy.engine import make_url

from vltune.cli import _parser
from vltune.tracking import Tracker

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()
CONFIG = yaml.safe_load(TEXT)


def _commands() -> Iterator[str]:
    for key, value in CONFIG.items():
        if key.endswith("_commands"):
            yield from value


def test_ray_accepts_it() -> None:
    prepared = prepare_config(copy.deepcopy(CONFIG))
    validate_config(prepared)
    # What we say survives the merge with Ray's defaults.
    assert prepared["head_start_ray_commands"] == CONFIG["head_start_ray_commands"]
    assert prepared["available_node_types"].keys() == {"head", "gpu"}
    assert prepared["available_node_types"]["head"]["max_workers"] == 0


def test_a_misspelt_key_would_be_found() -> None:
    wrong = prepare_config({**copy.deepcopy(CONFIG), "max_worker": 1})
    with pytest.raises(Exception, match="max_worker"):
        validate_config(wrong)


@pytest.mark.parametrize("command", list(_commands()))
def test_commands_are_shell(command: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_commented_mount_is_shell_too() -> None:
    lines = re.findall(r"^    # - (.+)$", TEXT, flags=re.MULTILINE)
    assert any("/mnt/vltune" in line for line in lines)
    for line in lines:
        assert isinstance(yaml.safe_load(f"- {line}")[0], str)
        assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0


@pytest.mark.parametrize("key", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_ray_start_demands_the_token(key: str) -> None:
    starts = [command for command in CONFIG[key] if "ray start" in command]
    assert starts
    for command in starts:
        before, _, _ = command.partition("ray start")
        assert re.search(r"export [^;]*\bRAY_AUTH_MODE=token\b[^;]*;", before)
        assert "RAY_USAGE_STATS_ENABLED=0" in before


def test_the_token_reaches_every_node_and_only_its_user_may_read_it() -> None:
    remote = next(path for path, local in CONFIG["file_mounts"].items() if local == "~/.ray/auth_token")
    assert remote.endswith("/.ray/auth_token")
    assert any("chmod 600 ~/.ray/auth_token" in command for command in CONFIG["setup_commands"])


def test_nothing_listens_on_a_public_address() -> None:
    head = "\n".join(CONFIG["head_start_ray_commands"])
    assert "0.0.0.0" not in "\n".join(_commands())
    assert "--dashboard-host=127.0.0.1" in head
    assert re.search(r"mlflow server --host 127\.0\.0\.1 ", head)
    assert "sqlite:///" in head
    assert "--artifacts-destination" in head


def _environment(home: Path) -> dict[str, str]:
    """What a shell on the head knows after its set-up, which every ``ray up`` runs again."""
    commands = [command for command in CONFIG["head_setup_commands"] if "~/" in command]
    base = {"HOME": str(home), "PATH": os.environ["PATH"]}
    for command in 2 * commands:
        subprocess.run(["bash", "-c", command], env=base, check=True)
    # As the launcher runs all its commands; `ray attach` starts $SHELL in the same way.
    shell = ["bash", "-c", "source ~/.bashrc; env -0"]
    shown = subprocess.run(shell, env=base, check=True, capture_output=True, text=True).stdout
    return dict(entry.split("=", 1) for entry in shown.split("\0") if entry)


def _option(name: str) -> str:
    (server,) = (command for command in CONFIG["head_start_ray_commands"] if "mlflow server" in command)
    words = shlex.split(server)
    return words[words.index(name) + 1]


def test_searches_on_the_head_use_its_mlflow(tmp_path: Path) -> None:
    assert _environment(tmp_path)["MLFLOW_TRACKING_URI"] == f"http://{_option('--host')}:{_option('--port')}"
    assert (tmp_path / ".bashrc").read_text().count("vltune_environment") == 1


def test_what_must_be_shared_is_and_databases_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _environment(tmp_path)
    databases = [found["VLTUNE_LEDGER"], _option("--backend-store-uri")]
    made = [Path(word) for command in CONFIG["head_setup_commands"] for word in command.split() if "/var/" in word]
    for url in databases:
        parsed = make_url(url)
        assert parsed.drivername == "sqlite"
        folder = Path(str(parsed.database)).parent
        assert folder.is_relative_to("/var/lib/vltune")
        assert folder in made
    assert len({make_url(url).database for url in databases}) == 2
    shared, own = Path("/mnt/vltune"), Path("/var/lib/vltune")
    assert {f"-v {path}:{path}" for path in (shared, own)} <= set(CONFIG["docker"]["run_options"])
    assert Path(found["VLTUNE_STORAGE"]).is_relative_to(shared)
    assert Path(_option("--artifacts-destination")).is_relative_to(shared)
    # The mount is of the shared folder, not of the node's own.
    (mount,) = re.findall(r"^    # - (.*mount -t nfs4.*)$", TEXT, flags=re.MULTILINE)
    assert mount.split()[-1] == str(shared)

    for name, value in found.items():
        if name.startswith(("VLTUNE_", "MLFLOW_")):
            monkeypatch.setenv(name, value)
    assert _parser().parse_args(["models"]).storage == Path("/mnt/vltune/runs")
    assert Tracker(Path("/mnt/vltune/runs")).uri == "http://127.0.0.1:5000"


def test_a_ledger_that_is_set_already_is_kept(tmp_path: Path) -> None:
    _environment(tmp_path)
    mine = "postgresql+psycopg://vltune@db.example/vltune"
    done = subprocess.run(
        ["bash", "-c", "source ~/.bashrc; echo $VLTUNE_LEDGER"],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "VLTUNE_LEDGER": mine},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == mine


def test_workers_know_of_no_database() -> None:
    for key in ("initialization_commands", "setup_commands", "worker_setup_commands", "worker_start_ray_commands"):
        for command in CONFIG.get(key, []):
            assert not re.search(r"VLTUNE_LEDGER|MLFLOW_TRACKING_URI|sqlite|mlflow", command)


def test_workers_are_spot_nodes_and_may_be_none() -> None:
    worker = CONFIG["available_node_types"]["gpu"]
    assert worker["min_workers"] == 0
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    head = CONFIG["available_node_types"][CONFIG["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]


def test_it_installs_what_lies_here() -> None:
    for remote, local in CONFIG["file_mounts"].items():
        if not local.startswith("~"):
            assert (ROOT / local).exists()
            assert remote == f"/home/ray/vltune/{local}"
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    packages = hatch["build"]["targets"]["wheel"]["packages"]
    assert {package.split("/")[0] for package in packages} <= set(CONFIG["file_mounts"].values())


def test_the_image_has_a_ray_and_a_python_that_the_project_allows() -> None:
    found = re.fullmatch(r"rayproject/ray:([\d.]+)-py(\d)(\d+)-gpu", CONFIG["docker"]["image"])
    assert found
    assert found[1] == ray.__version__
    assert (3, 11) <= (int(found[2]), int(found[3])) < (3, 14)
