"""Continuous integration cannot pass by skipping the tests of real pictures where these are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = """
import pytest

@pytest.mark.shared_data
def test_real_pictures():
    pytest.skip("no mood")

def test_other():
    pytest.skip("no mood")
"""


@pytest.mark.parametrize(
    ("ci", "pictures", "outcome"),
    [("1", True, "1 failed, 1 skipped"), ("1", False, "2 skipped"), ("", True, "2 skipped")],
)
def test_a_skip_of_real_pictures(tmp_path: Path, ci: str, pictures: bool, outcome: str) -> None:
    tests = tmp_path / "project" / "tests"
    tests.mkdir(parents=True)
    if pictures:
        (tmp_path / "shared" / "data").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("conftest.py"), tests)
    (tests / "test_it.py").write_text(SKIPS)
    (tests.parent / "pytest.ini").write_text("[pytest]\nmarkers = shared_data: real pictures\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:jaxtyping", "-p", "no:cacheprovider", "tests"]
    env = {**os.environ, "CI": ci, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=tests.parent, env=env, capture_output=True, text=True, check=False)
    assert outcome in done.stdout.splitlines()[-1], done.stdout
