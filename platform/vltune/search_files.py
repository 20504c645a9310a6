"""A search by its name, or from a person's own Python file, and where in that something went wrong."""

import ast
import dataclasses
import importlib.machinery
import importlib.util
import sys
import traceback
import typing
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from vltune.contract import Search, fingerprint
from vltune.errors import BadInput, NotFound, nearest


class _FreshLoader(importlib.machinery.SourceFileLoader):
    """Compiles what the file says now: no stale bytecode is read, and none is left beside a person's file."""

    def path_stats(self, path: str) -> typing.NoReturn:
        raise OSError(path)


def load_module(path: Path) -> ModuleType:
    """Runs a file, under a module name of its own.

    Raises:
        BadInput: it does not run; the text says in which line and why.
    """
    # Content is part of the name: an edited file is another module, an unchanged one keeps its classes.
    name = f"vltune_search_{fingerprint([str(path.resolve()), path.read_bytes().hex()])}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _FreshLoader(name, str(path.resolve()))
    spec = importlib.util.spec_from_file_location(name, path.resolve(), loader=loader)
    if spec is None:
        raise BadInput(f"{path}: Python cannot import this file; give another.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being executed
    try:
        loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[name]
        raise BadInput(f"{error.filename or path}:{error.lineno or 1}: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise BadInput(f"{where(error, str(path.resolve()))}: {said(error)}") from error
    return module


def where(error: BaseException, file: str = "") -> str:
    """File and line of an error: the last line of ``file`` that led to it, or the very last."""
    frames = traceback.extract_tb(error.__traceback__)
    last = ([f for f in frames if f.filename == file] or frames)[-1]
    return f"{last.filename}:{last.lineno}"


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def load_search(name_or_path: str, table: Mapping[str, Search]) -> Search:
    """A search of the table, or ``SEARCH`` of a person's own Python file, which may define a family of its own.

    Raises:
        NotFound: neither a search of the table nor a file.
        BadInput: the file does not run, or defines no search.
    """
    if name_or_path in table:
        return with_question(table[name_or_path])
    path = Path(name_or_path).expanduser()
    if path.suffix != ".py":
        hint = nearest(name_or_path, table)
        raise NotFound(f"unknown search {name_or_path!r}{hint} Or give the path of a Python file that defines SEARCH.")
    if not path.is_file():
        raise NotFound(f"{path}: there is no such file; give the path of a Python file that defines SEARCH.")
    found = getattr(load_module(path), "SEARCH", None)
    if not isinstance(found, Search):
        lines = [
            s.lineno
            for s in ast.parse(path.read_bytes()).body
            if "SEARCH" in {n.id for n in ast.walk(s) if isinstance(n, ast.Name)}
        ]
        got = "defines no SEARCH" if found is None else f"SEARCH is a {type(found).__name__}"
        raise BadInput(f"{path}:{lines[-1] if lines else 1}: {got}; write SEARCH = Search(...).")
    return with_question(found)


def with_question(search: Search) -> Search:
    """The search, with the first line of its module's docstring where it has no question of its own."""
    if search.question:
        return search
    text = (getattr(sys.modules.get(search.define.__module__), "__doc__", None) or "").strip()
    return dataclasses.replace(search, question=text.partition("\n")[0])
