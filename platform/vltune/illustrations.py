"""What a trial leaves for a person to look at beside numbers: figures, and the tree of its modules.

Nothing here can change a trial: random states and modes come back, and what fails becomes a note.
"""

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from vltune import checkpoints
from vltune.checkpoints import Checkpoint
from vltune.columns import read_records
from vltune.contract import Family, Sample
from vltune.devices import leaves_process_sound, to_device
from vltune.drawings import Drawing
from vltune.models import load_weights
from vltune.module_tree import module_tree

FOLDER = "illustrations"
"""Folder of a trial: ``model.txt``, and the figures with a file that lists them."""
FIGURES = "figures"
INDEX = "figures.json"
MODULES = "model.txt"
MISSING = "missing.txt"
"""What could not be drawn, a line each; only where there is such a thing."""
_DPI = 100
_LONGEST = 200


def illustrate(
    model: Family, samples: Sequence[Sample], best: Checkpoint, folder: Path, *, device: torch.device
) -> list[str]:
    """Writes a model's figures and the tree of its modules; what was there before is replaced as a whole.

    Args:
        model: gets the weights of the best epoch; nothing else of it changes.
        samples: the validation split.
        best: checkpoint of the best epoch.
        folder: where to.
        device: where the model is.

    Returns:
        A note for each thing that could not be drawn, with the reason.

    Raises:
        Exception: an error of the device, after which nothing works in this process.
    """
    notes: list[str] = []
    draft = folder.with_name(f".{folder.name}")

    def attempt(what: str, deed: Callable[[], object]) -> None:
        try:
            deed()
        except Exception as error:  # whatever it is, the trial's numbers are there
            if not leaves_process_sound(error):
                raise
            reason = " ".join(str(error).split()) or "no reason given"
            notes.append(f"{what}: {type(error).__name__}: {reason}"[:_LONGEST])

    def write() -> None:
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
        load_weights(model, checkpoints.read_tensors(best.folder / checkpoints.MODEL))
        records = read_records(best.folder / checkpoints.RECORDS)
        figures = draft / FIGURES
        figures.mkdir(parents=True)
        drawings: list[Drawing] = []
        attempt("no figures", lambda: drawings.extend(model.illustrate(samples, records)))
        listed: list[dict[str, str | int]] = []
        for drawing in drawings:
            attempt(f"no figure {drawing.name}", lambda d=drawing: listed.append(_write_figure(figures, d)))
        (figures / INDEX).write_text(json.dumps(listed, indent=1, ensure_ascii=False), encoding="utf-8")
        attempt(f"no {MODULES}", lambda: _write_modules(draft / MODULES, model, samples[0], device))
        if notes:
            (draft / MISSING).write_text("\n".join(notes), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)

    try:
        with _undisturbed(model, device), torch.no_grad():
            model.eval()
            attempt("no figures", write)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return notes


def _write_figure(folder: Path, drawing: Drawing) -> dict[str, str | int]:
    """Draws one figure; returns what the index says of it. ``head``: pixels at its top that say title and reads."""
    from vltune.trial_figures import draw, head_height  # matplotlib is slow to import

    with warnings.catch_warnings():
        # Captions may be in any script; the font has no sign for some.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = draw(drawing)
        figure.savefig(folder / f"{drawing.name}.png", dpi=_DPI)
    head = round(_DPI * head_height(drawing, figure))
    return {"file": f"{drawing.name}.png", "title": drawing.title, "reads": drawing.reads, "head": head}


def _write_modules(file: Path, model: Family, sample: Sample, device: torch.device) -> None:
    batch = to_device(model.collate([sample], None), device)
    file.write_text(module_tree(model, lambda: model.predict(batch)), encoding="utf-8")


@contextlib.contextmanager
def _undisturbed(model: Family, device: torch.device) -> Iterator[None]:
    """Gives random states and the modes of all modules back, also of those that other trials use too."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
