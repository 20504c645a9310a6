"""SPICE of captions (https://arxiv.org/abs/1607.08822), by its authors' program, where the parser it needs is here."""

import json
import math
import os
import re
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainables.parts.java import peer_file, run_java
from trainables.parts.ptb import ptb_tokenize
from trainables.parts.references import reference_statistics
from vltune.contract import Scores
from vltune.errors import NotFound, TrainingFailure

_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_ENGINE = "META-INF/services/javax.script.ScriptEngineFactory"
"""In a jar that brings a script engine. SPICE writes results through JavaScript, which Java has lost in version 15."""


def score_spice(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    folder: str,
    cache: str = "",
    timeout: float = 3600.0,
) -> Scores:
    """SPICE of a caption for each picture against the picture's references: the mean over pictures, and each.

    F1 over propositions (objects, attributes, relations) of a caption and of all references together, as pycocoevalcap
    has it, on PTB-tokenised text. Nothing is downloaded: the parser, its models and a JavaScript engine are looked for
    in ``folder`` and beside pycocoevalcap's own jars. Parsing takes minutes for thousands of captions.

    Args:
        folder: where the jars lie; empty: beside pycocoevalcap's only.
        cache: folder where the references' tokens and parses are kept; empty: parsed at each call. Parses that the
            program fails with are set aside, and it is run once more without any.
        timeout: seconds after which a run of the program is killed.

    Raises:
        BadInput: no pictures, or a picture without references.
        NotFound: a jar is missing; the text says which, where it comes from and where it belongs.
        TrainingFailure: the program fails, takes longer than ``timeout``, or does not score all pictures.
    """
    call = spice_call(folder)
    statistics = reference_statistics(captions, references, cache=cache)
    asked = [
        {"image_id": number, "test": caption, "refs": texts}
        for number, (caption, texts) in enumerate(zip(ptb_tokenize(captions), statistics.tokens, strict=True))
    ]
    with tempfile.TemporaryDirectory(prefix="vltune-spice-") as place:
        given, told = Path(place, "captions.json"), Path(place, "scores.json")
        given.write_text(json.dumps(asked), encoding="utf-8")

        def run(*kept: str | Path) -> list[float]:
            told.unlink(missing_ok=True)
            # its libraries unpack themselves into the temporary folder
            arguments = [f"-Djava.io.tmpdir={place}", *call, given, "-out", told, *kept, "-silent"]
            run_java(arguments, what="SPICE", timeout=timeout)
            return _read(told, pictures=len(captions))

        scores = _with_parses(run, _parses(cache)) if cache else run()
    return Scores({"spice": math.fsum(scores) / len(scores)}, [{"spice": score} for score in scores])


def _parses(cache: str) -> Path:
    """Where parses are kept: each machine has its own, since the program's LMDB must not be shared over a network."""
    return Path(cache, f"spice-{re.sub(r'[^A-Za-z0-9.-]', '_', socket.gethostname())}")


def _with_parses(run: Callable[..., list[float]], parses: Path) -> list[float]:
    """What a run with kept parses gives; what fails with them alone is the fault of the parses."""
    try:
        parses.mkdir(parents=True, exist_ok=True)
        return run("-cache", parses)
    except (OSError, TrainingFailure):
        scores = run()
    aside = parses.with_name(f"bad-{parses.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):  # another process has already done so
        parses.rename(aside)
    return scores


def spice_call(folder: str) -> list[str | Path]:
    """The arguments that start the program.

    Raises:
        NotFound: a folder or a jar is missing.
    """
    own, given = peer_file("spice", "lib"), Path(folder).expanduser()
    if folder and not given.is_dir():
        raise NotFound(f"{folder}: there is no such folder, where the jars that SPICE needs should lie.")
    places = [given, own] if folder else [own]
    jars = [jar for place in places for jar in sorted(place.glob("*.jar"))]
    names = {jar.name for jar in jars}
    missing = [name for name in _MODELS if name not in names]
    missing += [] if any(map(_has_engine, jars)) else ["a JavaScript engine (nashorn-core and asm jars)"]
    if missing:
        raise NotFound(
            f"SPICE needs {' and '.join(missing)} in {folder or own}: stanford-corenlp jars are those of "
            "stanford-corenlp-full-2015-12-09.zip (Stanford CoreNLP 3.6.0, https://stanfordnlp.github.io/CoreNLP), the "
            "engine is OpenJDK Nashorn 15 with ASM 7 (https://github.com/openjdk/nashorn); copy them there."
        )
    path = os.pathsep.join(map(str, (peer_file("spice", "spice-1.0.jar"), *jars)))
    # the flag: its cache opens Java's own strings, which Java 17 and later forbid
    return ["-Xmx8G", "--add-opens=java.base/java.lang=ALL-UNNAMED", "-cp", path, "edu.anu.spice.SpiceScorer"]


def _has_engine(jar: Path) -> bool:
    try:
        with zipfile.ZipFile(jar) as file:
            return _ENGINE in file.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _read(path: Path, *, pictures: int) -> list[float]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        scores = {row["image_id"]: _number(row["scores"]) for row in found}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingFailure(f"SPICE wrote no scores that can be read: {error!r}") from None
    if scores.keys() != set(range(pictures)):
        raise TrainingFailure(f"SPICE scored {len(scores)} of {pictures} pictures.")
    if wrong := [number for number in range(pictures) if not math.isfinite(scores[number])]:
        raise TrainingFailure(f"SPICE gave picture {wrong[0]} no number.")
    return [scores[number] for number in range(pictures)]


def _number(scores: Mapping[str, Any]) -> float:
    """Of all propositions; Java's not-a-number comes as null."""
    value = scores["All"]["f"]
    return math.nan if value is None else float(value)
