"""MLflow's settings, and the server that shows its pages."""

import os
import sys
from pathlib import Path

_DEFAULTS = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes that nothing here needs
    # MLflow repeats every kind of request, also those that create a run, although the first one may have arrived.
    # Sender repeats what is safe to repeat.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def settle_environment() -> None:
    """Sets MLflow's environment variables: no telemetry ever, the rest only where the user has not chosen."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for key, value in _DEFAULTS.items():
        os.environ.setdefault(key, value)


def database(storage: Path) -> Path:
    """MLflow's own database beside the runs. It is never the ledger's: both would migrate it."""
    return storage.absolute() / "mlflow.db"


def ui_command(storage: Path, *, port: int) -> list[str]:
    """The command that shows the runs of a storage folder in a browser, on this machine only."""
    settle_environment()
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{database(storage)}"),
        *("--default-artifact-root", str(storage.absolute() / "artifacts")),
    ]
