"""The Penn Treebank tokenisation that published caption scores are computed on."""

import re
from collections.abc import Iterable, Sequence

from trainables.parts.java import peer_file, run_java

_JAR = "stanford-corenlp-3.4.1.jar"
_PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
"""What pycocoevalcap removes. Its brackets are upper case and the tokenizer's output is not, so those stay."""

_PLAIN = re.compile(r"[a-z]+(?: [a-z]+)*")
_SPLIT = frozenset(("cannot", "gimme", "gonna", "gotta", "lemme", "wanna"))
"""The only words of plain letters that the tokenizer takes apart: found by running all words of up to five letters,
the vocabularies of Flickr8k and COCO, and every contraction of English through it."""

_FENCE = "zz"
"""A line between two texts: without it the tokenizer's rules for abbreviations look into the next text."""

_REMEMBERED: dict[str, str] = {}
_MEMORY = 200_000
"""Texts to remember: more than the references of COCO's validation split as Karpathy cut it."""


def ptb_tokenize(texts: Sequence[str], *, timeout: float = 120.0) -> list[str]:
    """Each text's tokens, lower case, without punctuation, joined by spaces: what pycocoevalcap makes of it alone.

    pycocoevalcap sends all texts as lines of one file, so that the first word of a line can change how the line before
    it ends (``no.`` before a number). Here a text's tokens depend on that text only. White space of any kind, line
    separators such as U+2028 included, is one space; pycocoevalcap misaligns all that follows such a character.

    Texts of plain lower-case words are their own tokens and cost nothing; all others of one call go through one start
    of Java, and the results are remembered.

    Args:
        timeout: seconds after which Java is killed.

    Raises:
        TrainingFailure: Java does not start, fails, or takes longer than ``timeout``.
    """
    spaced = [" ".join(text.split()) for text in texts]
    tokens = {text: text if _is_trivial(text) else _REMEMBERED.get(text) for text in dict.fromkeys(spaced)}
    unknown = [text for text, found in tokens.items() if found is None]
    fresh = dict(zip(unknown, _tokenize(unknown, timeout), strict=True))
    while _REMEMBERED and len(_REMEMBERED) + len(fresh) > _MEMORY:
        _REMEMBERED.pop(next(iter(_REMEMBERED)))
    _REMEMBERED.update(fresh)
    return [tokens[text] or fresh.get(text, "") for text in spaced]


def _is_trivial(text: str) -> bool:
    return not text or (_PLAIN.fullmatch(text) is not None and _SPLIT.isdisjoint(text.split(" ")))


def _tokenize(texts: Sequence[str], timeout: float) -> list[str]:
    if not texts:
        return []
    lines = _java("".join(f"{text}\n{_FENCE}\n" for text in texts), timeout)
    found, fences = lines[0::2], lines[1::2]
    if len(lines) == 2 * len(texts) and all(fence == _FENCE for fence in fences):
        return [_without_punctuation(line.rstrip().split(" ")) for line in found]
    if len(texts) == 1:  # the tokenizer itself broke the text into lines: they are one text all the same
        return [_without_punctuation(word for line in lines[:-1] for word in line.split(" ") if word)]
    half = len(texts) // 2
    return _tokenize(texts[:half], timeout) + _tokenize(texts[half:], timeout)


def _without_punctuation(words: Iterable[str]) -> str:
    return " ".join(word for word in words if word not in _PUNCTUATION)


def _java(text: str, timeout: float) -> list[str]:
    """The tokenizer's output lines. The simpler compiler alone: it starts in a third of the time."""
    jar = peer_file("tokenizer", _JAR)
    call = ["-XX:TieredStopAtLevel=1", "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer"]
    done = run_java(
        [*call, "-preserveLines", "-lowerCase"],
        what="the PTB tokenizer",
        given=text.encode(errors="replace"),
        timeout=timeout,
    )
    return done.decode(errors="replace").removesuffix("\n").split("\n")
