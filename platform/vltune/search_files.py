"""A person's own Python file as a module, and where in it something went wrong."""

import importlib.machinery
import importlib.util
import sys
import traceback
import typing
from pathlib import Path
from types import ModuleType

from vltune.contract import fingerprint
from vltune.errors import BadInput


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
