"""What the docstrings under a configuration's fields say, for people who read pages and not sources."""

import ast
import inspect
import itertools
import textwrap
from collections.abc import Mapping


def field_texts(config: type) -> Mapping[str, str]:
    """Field -> the text that stands under it, in one line; a class comes before those that it inherits from.

    Empty where the source is gone, as that of a person's own file may be.
    """
    found: dict[str, str] = {}
    for owner in reversed(config.__mro__):
        try:
            source = inspect.getsource(owner)
        except (OSError, TypeError):
            continue
        body = getattr(ast.parse(textwrap.dedent(source)).body[0], "body", [])
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = below.value if isinstance(below, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[field.target.id] = " ".join(text.value.split())
    return found
