"""The trained item tower as files, and the place of an item that training never saw.

Invariant: reading the tower needs NumPy alone; an item's embedding by content is the one that training exported for
an item without events.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bandits.graph import Float32
from streams.corpus.errors import CorpusError
from streams.corpus.features import FeatureEncoder, Table
from streams.corpus.towers import ITEM_PARAMETERS, Parameters, item_tower
from streams.corpus.train_checkpoint import load_arrays, save_arrays

_TOWER, _FEATURES = "item_tower.npz", "item_features.json"
_CONTENT_PARAMETERS = tuple(name for name in ITEM_PARAMETERS if name != "item_id")


@dataclass(frozen=True, eq=False)
class ItemPlace:
    """Places items by their content.

    Attributes:
        encoder: of the content features.
        parameters: of the item tower, without ids.
    """

    encoder: FeatureEncoder
    parameters: Parameters

    def embed(self, table: Table) -> Float32:
        """Embeddings of items by content, float32 of shape (n, D), each of length 1.

        Raises:
            CorpusError: a column is missing or wrong.
        """
        content = self.encoder.encode(table)
        return np.asarray(item_tower(self.parameters, content, np.float32(0)), np.float32)

    def embed_one(self, attributes: Mapping[str, str]) -> Float32:
        """Embedding of an item by its attributes, float32 of shape (D,); columns that it does not name are empty.

        Raises:
            CorpusError: it names no column that the tower was trained on, or one of them is wrong.
        """
        columns = [column.name for column in self.encoder.columns]
        table = {name: [attributes.get(name, "")] for name in columns}
        if not any(cells[0] for cells in table.values()):
            raise CorpusError(f"expected at least one of {', '.join(columns)}, got {', '.join(sorted(attributes))}")
        embedding: Float32 = self.embed(table)[0]
        return embedding

    def save(self, folder: Path) -> None:
        """Write `item_tower.npz` and `item_features.json`."""
        save_arrays({name: self.parameters[name] for name in _CONTENT_PARAMETERS}, folder / _TOWER)
        (folder / _FEATURES).write_text(json.dumps(self.encoder.to_json(), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "ItemPlace":
        """Read what `save` wrote.

        Raises:
            CorpusError: a file is missing or damaged, or the two do not fit.
        """
        arrays = load_arrays(folder / _TOWER)
        try:
            encoder = FeatureEncoder.from_json(json.loads((folder / _FEATURES).read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise CorpusError(f"{folder / _FEATURES}: expected fitted features, got {error}") from error
        if set(arrays) != set(_CONTENT_PARAMETERS) or arrays["item_content"].shape[:1] != (encoder.width,):
            raise CorpusError(f"{folder}: expected a tower over {encoder.width} features, got another")
        return cls(encoder, arrays)
