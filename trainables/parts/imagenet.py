"""Finds torchvision's ImageNet weights on this machine, or fetches them, and checks their hash."""

import hashlib
import http.client
import os
import re
import tempfile
import urllib.request
from pathlib import Path

import torch

from vltune.errors import BadInput

TIMEOUT = 10
"""Seconds without an answer after which the network counts as missing."""


def imagenet_file(url: str) -> tuple[Path, str]:
    """The file of torchvision's weights and the first digits of its SHA-256, which are part of its name.

    It lies in the folder ``$VLTUNE_WEIGHTS``, else in torch's own (``~/.cache/torch/hub/checkpoints``), and is
    downloaded to there if missing.

    Args:
        url: torchvision's address of the weights.

    Raises:
        BadInput: the file is missing and cannot be downloaded.
    """
    name = url.rsplit("/", 1)[-1]
    match = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    assert match, f"no hash in {name}"
    own = os.environ.get("VLTUNE_WEIGHTS")
    folder = Path(own).expanduser() if own else Path(torch.hub.get_dir()) / "checkpoints"
    if not (folder / name).is_file():
        try:
            _download(url, folder / name, match[1])
        except (OSError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split())
            raise BadInput(
                f"weights=imagenet needs the file {name}, and downloading it failed ({reason}): "
                f"fetch {url} where there is a network and put it into {folder}."
            ) from error
    return folder / name, match[1]


def _download(url: str, target: Path, sha256_prefix: str) -> None:
    """Downloads beside the target and renames at the end: other workers see the whole file or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as part:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310 - torchvision's own addresses
                while block := answer.read(1 << 20):
                    digest.update(block)
                    part.write(block)
            if not digest.hexdigest().startswith(sha256_prefix):
                raise OSError(f"what came has SHA-256 {digest.hexdigest()[:12]}…, expected {sha256_prefix}…")
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(target)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
