"""What can be wrong with a corpus."""

import importlib
from typing import Any


class CorpusError(ValueError):
    """An input that is not what it should be; the message names file, row, expected and got."""


class MissingLibrary(RuntimeError):
    """A library of an extra that is not installed; the message says what to install."""


def optional_library(name: str, *, needed_for: str, extra: str) -> Any:
    """Import a library that only some commands need.

    Raises:
        MissingLibrary: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingLibrary(f"{needed_for} needs {name}: pip install 'freshet[{extra}]' ({error})") from error
