"""Checkpoints of training: one .npz of plain arrays, never a pickle.

Invariants: a checkpoint is complete or keeps its old contents; what is read back is bit for bit what was saved, and
belongs to the same settings and data, or it is refused.
"""

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.corpus.errors import CorpusError

FORMAT = 1

# What a damaged archive makes NumPy, zipfile and zlib raise.
_DAMAGE = (
    *(OSError, ValueError, EOFError, TypeError, KeyError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything that training goes on from.

    Attributes:
        identity: names settings and data; see `identify`.
        epoch: epochs done.
        parameters: by name.
        state: arrays of the optimizer, in its order.
        best: parameters of the best epoch so far.
        curve: what each epoch did, as JSON values.
    """

    identity: str
    epoch: int
    parameters: Mapping[str, npt.NDArray[Any]]
    state: list[npt.NDArray[Any]]
    best: Mapping[str, npt.NDArray[Any]]
    curve: list[dict[str, float]]


def identify(settings: Mapping[str, Any], *arrays: npt.NDArray[Any]) -> str:
    """A hash of settings and data, 64 hex digits."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint in place of the one before."""
    about = {
        "format": FORMAT,
        "identity": checkpoint.identity,
        "epoch": checkpoint.epoch,
        "curve": checkpoint.curve,
        "state": len(checkpoint.state),
    }
    arrays = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    arrays |= {f"parameters/{name}": array for name, array in checkpoint.parameters.items()}
    arrays |= {f"best/{name}": array for name, array in checkpoint.best.items()}
    arrays |= {f"state/{number}": array for number, array in enumerate(checkpoint.state)}
    save_arrays(arrays, path)


def load_checkpoint(path: Path, identity: str) -> Checkpoint:
    """Read a checkpoint of the same settings and data.

    Raises:
        CorpusError: it is damaged, of a newer format, or of other settings or data.
    """
    arrays = load_arrays(path)
    try:
        about = json.loads(arrays.pop("about").tobytes())
        if about["format"] != FORMAT:
            raise CorpusError(f"{path}: expected format {FORMAT}, got {about['format']!r:.20}")
        if about["identity"] != identity:
            raise CorpusError(f"{path}: expected a checkpoint of these settings and this data, got another's")
        state = [arrays[f"state/{number}"] for number in range(about["state"])]
        parts = {
            part: {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{part}/")}
            for part in ("parameters", "best")
        }
        epoch, curve = int(about["epoch"]), list(about["curve"])
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CorpusError(f"{path}: expected a checkpoint, got {error!r}") from error
    return Checkpoint(identity, epoch, parts["parameters"], state, parts["best"], curve)


def save_arrays(arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Write named arrays as .npz, complete or not at all; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read named arrays.

    Raises:
        CorpusError: there is no such file, it is damaged, or holds objects.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: expected a file, got none") from error
    except _DAMAGE as error:
        raise CorpusError(f"{path}: expected named arrays (.npz), got {error}") from error
