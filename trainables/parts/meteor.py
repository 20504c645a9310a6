"""METEOR of captions (https://aclanthology.org/W14-3348), from its authors' program, which runs between evaluations."""

import atexit
import hashlib
import os
import selectors
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from trainables.parts.java import java_command, peer_file, said_last
from trainables.parts.ptb import ptb_tokenize
from trainables.parts.references import reference_statistics
from trainables.parts.resampling import drawn_sums
from vltune.contract import Scores
from vltune.errors import TrainingFailure

DRAWN_WITH_METEOR = {"meteor": "matches and lengths are summed over pictures first, each against its best reference"}
"""For ``Family.drawn_with``: what its interval is over."""

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
"""English, tuned to how people rank translations: weight of recall, steepness and greatest share of the penalty,
weight of content words."""
_WEIGHTS = np.array((1.0, 0.6, 0.8, 0.6))
"""Of words that match exactly, by their stem, as synonyms, as paraphrases."""
_SLOW_START = 5
"""So many times as patient until it has answered for the first time: on a busy machine its tables take minutes."""
_NUMBERS = 23
"""In a line of the program's statistics."""
_SUMMED = ("matched", "words", "reference_matched", "reference_words", "chunks", "aligned")

_REMEMBERED: dict[bytes, tuple[float, ...]] = {}
_MEMORY = 50_000
"""Pictures whose statistics are remembered: ten evaluations of 5,000. A captioner often repeats itself."""


def score_meteor(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, cache: str = "", timeout: float = 120.0
) -> Scores:
    """METEOR of a caption for each picture against the picture's references, over all pictures and for each.

    Equal to pycocoevalcap's (METEOR 1.5, English, ``-norm``) on PTB-tokenised text. Of the whole it is no mean over
    pictures: each picture's best reference is chosen, then matches, lengths and chunks are summed. Records hold what is
    summed, so that METEOR of resamples is exact. The separator ``|||`` of the program's input is dropped from
    references as from captions; pycocoevalcap would take such a reference for two.

    The first call of a process loads the program's tables, for seconds; it then stays up, with 600 MB, until the
    process ends.

    Args:
        cache: folder where the references' tokens are kept; empty: in memory only.
        timeout: seconds without any answer after which the program is killed, five times as many while it starts.
            The next call starts it again.

    Raises:
        BadInput: no pictures, or a picture without references.
        TrainingFailure: Java or the tokenizer cannot run, the program ends, or does not answer.
    """
    statistics = reference_statistics(captions, references, cache=cache)
    lines = [
        " ||| ".join(("SCORE", *map(_one, texts), _one(caption)))
        for caption, texts in zip(ptb_tokenize(captions), statistics.tokens, strict=True)
    ]
    sums = np.array(_remembered(lines, timeout))
    names = [f"meteor_{name}" for name in _SUMMED]
    each = _formula(*sums.T)
    records = [
        {"meteor": value, **dict(zip(names, row, strict=True))}
        for value, row in zip(each.tolist(), sums.tolist(), strict=True)
    ]
    whole = float(_formula(*sums.sum(0)))
    return Scores({"meteor": whole}, records, lambda counts: drawn_meteor(counts, records))


def drawn_meteor(
    counts: Float[np.ndarray, "resamples samples"], records: Sequence[Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """METEOR of resamples, from what ``score_meteor`` says of single pictures beside their scores.

    Args:
        counts: how often each picture was drawn.
        records: of all pictures.
    """
    return {"meteor": _formula(*drawn_sums(counts, records, *(f"meteor_{name}" for name in _SUMMED)))}


def _one(text: str) -> str:
    return text.replace("|||", "").replace("  ", " ")


def _remembered(lines: Sequence[str], timeout: float) -> list[tuple[float, ...]]:
    keys = [hashlib.blake2b(line.encode(), digest_size=16).digest() for line in lines]
    found = {key: _REMEMBERED.get(key) for key in keys}
    unknown = {key: line for key, line in zip(keys, lines, strict=True) if found[key] is None}
    if unknown:
        rows = _summed(_METEOR.ask(list(unknown.values()), timeout=timeout))
        fresh = dict(zip(unknown, map(tuple, rows.tolist()), strict=True))
        while _REMEMBERED and len(_REMEMBERED) + len(fresh) > _MEMORY:
            _REMEMBERED.pop(next(iter(_REMEMBERED)))
        _REMEMBERED.update(fresh)
        found |= fresh
    return [row for key in keys if (row := found[key]) is not None]


def _summed(answers: Float[np.ndarray, "pictures 23"]) -> Float[np.ndarray, "pictures 6"]:
    """What METEOR is made of, from the program's statistics, in the order of ``_SUMMED``.

    A line holds the words of caption and reference; their function words; for each of four kinds of match the content
    words matched in the caption and in the reference, then the function words; chunks; all words matched in both.
    """
    words, function = answers[:, 0:2], answers[:, 2:4]
    content_matches, function_matches = answers[:, 4:20].reshape(-1, 4, 2, 2).transpose(2, 0, 3, 1)
    lengths = _DELTA * (words - function) + (1 - _DELTA) * function
    matched = _DELTA * content_matches @ _WEIGHTS + (1 - _DELTA) * function_matches @ _WEIGHTS
    chunks, aligned = answers[:, 20], answers[:, 21:23]
    # a caption that equals its reference is not broken: it counts no chunk, alone and in sums
    whole = ((content_matches + function_matches).sum(2) == words).all(1) & (chunks == 1)
    columns = (matched[:, 0], lengths[:, 0], matched[:, 1], lengths[:, 1], np.where(whole, 0, chunks), aligned.mean(1))
    return np.stack(columns, 1)


def _formula(matched: Any, words: Any, reference_matched: Any, reference_words: Any, chunks: Any, aligned: Any) -> Any:
    """The same for one picture and for sums over some. Where nothing matches, it is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.divide(matched, words), np.divide(reference_matched, reference_words)
        mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        score = mean * (1 - _GAMMA * np.divide(chunks, aligned) ** _BETA)
    return np.maximum(np.nan_to_num(score, nan=0.0), 0.0)


class _Meteor:
    """The program, one for a process. It ends when its standard input closes, so also when this process is killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._seen = False

    def ask(self, lines: Sequence[str], *, timeout: float) -> Float[np.ndarray, "lines 23"]:
        """The program's statistics for each line. All lines are sent at once: it never waits for us."""
        with self._lock:
            try:
                answers = self._exchange("".join(f"{line}\n" for line in lines).encode(), len(lines), timeout)
                return np.array([_numbers(answer) for answer in answers])
            except BaseException:
                # what it still wrote would be taken for answers to the next questions
                self.stop()
                raise

    def stop(self) -> None:
        """Ends the program, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:  # closes its streams and waits
                pass
        if self._errors is not None:
            self._errors.close()

    def forget(self) -> None:
        """In a child that was forked: the program, and who may hold the lock, are the parent's."""
        process, self._process = self._process, None
        self._lock = threading.Lock()
        if process is not None:
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()
            process.returncode = 0  # not ours to wait for

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            if not self._seen:
                os.register_at_fork(after_in_child=self.forget)
                atexit.register(self.stop)
                self._seen = True
            jar = peer_file("meteor", "meteor-1.5.jar")
            call = java_command("-Xmx2G", "-jar", jar, "-", "-", "-stdio", "-l", "en", "-norm")
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - stop closes it
            try:
                # without buffers of ours: the streams are read and written as they are
                self._process = subprocess.Popen(  # noqa: S603 - the wheel's own Java, our arguments
                    call, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
                )
            except OSError as error:
                raise TrainingFailure(f"Java, which METEOR needs, does not start: {error}") from None
        return self._process

    def _exchange(self, text: bytes, answers: int, timeout: float) -> list[bytes]:
        patience = timeout if self._process is not None else _SLOW_START * timeout
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        given, told = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(given, False)
        rest, parts, lines = memoryview(text), [], 0
        with selectors.DefaultSelector() as selector:
            selector.register(told, selectors.EVENT_READ)
            selector.register(given, selectors.EVENT_WRITE)
            while lines < answers:
                ready = [key.fd for key, _ in selector.select(patience)]
                if not ready:
                    raise TrainingFailure(f"METEOR did not answer in {patience:g} s and was stopped.")
                if told in ready:
                    part = os.read(told, 1 << 16)
                    if not part:
                        raise self._ended(process)
                    parts.append(part)
                    patience = timeout
                    lines += part.count(b"\n")
                if given in ready:
                    try:
                        rest = rest[os.write(given, rest[: 1 << 16]) :]
                    except BrokenPipeError:
                        raise self._ended(process) from None
                    if not rest:
                        selector.unregister(given)
        found = b"".join(parts).split(b"\n")
        if rest or len(found) != answers + 1 or found[-1]:
            raise TrainingFailure("METEOR answered more than it was asked.")
        return found[:-1]

    def _ended(self, process: subprocess.Popen[bytes]) -> TrainingFailure:
        assert self._errors is not None
        try:
            status = process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()  # it closed its streams and hangs all the same
            status = process.wait()
        self._errors.seek(0)
        return TrainingFailure(f"METEOR ended with exit status {status}: {said_last(self._errors.read())}")


def _numbers(answer: bytes) -> list[float]:
    try:
        numbers = [float(word) for word in answer.split()]
    except ValueError:
        numbers = []
    if len(numbers) != _NUMBERS or not np.isfinite(numbers).all():
        said = answer.decode(errors="replace")
        raise TrainingFailure(f"METEOR answered {said[:100]!r}, not {_NUMBERS} numbers.")
    return numbers


_METEOR = _Meteor()
