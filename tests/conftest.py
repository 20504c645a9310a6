"""Fixtures that several test files share."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures with captions (Flickr8k and COCO samples), which are not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real pictures of ../shared/data are not here")
    return SHARED_DATA


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Continuous integration must not pass by leaving out the real pictures where they are."""
    report = yield
    wants = item.get_closest_marker("shared_data") or "shared_data" in getattr(item, "fixturenames", ())
    if report.skipped and not hasattr(report, "wasxfail") and wants and os.environ.get("CI") and SHARED_DATA.is_dir():
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped although {SHARED_DATA} is there: {report.longrepr}"
    return report
