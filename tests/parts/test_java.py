import pytest

from trainables.parts import ptb
from trainables.parts.java import said_last
from trainables.parts.ptb import ptb_tokenize


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ("", "no message"),
        ("no memory\nand more", "no memory"),
        ("reading\nException in thread main: a\n\tat B.java\nCaused by: CError: d\n\tat E\n", "Caused by: CError: d"),
        (
            "Error: not scored:\njava.lang.NullPointerException: n\n\tat SpiceException\n",
            "java.lang.NullPointerException: n",
        ),
    ],
)
def test_the_line_that_says_why(errors, expected):
    assert said_last(errors.encode()) == expected


@pytest.mark.integration
def test_java_speaks_english_everywhere(monkeypatch):
    monkeypatch.setattr(ptb, "_REMEMBERED", {})
    # Turkish lower-cases I to a letter without a dot
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.country=TR")
    assert ptb_tokenize(["TITLE"]) == ["title"]
