"""The vectors that ship with the library, as values."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "vectors")


def load_vectors(name: str) -> dict[str, Any]:
    """The vectors that ship with the library, as parsed JSON. `name` is the file's name without its ending.

    Raises FileNotFoundError for a name that is not there.
    """
    path = os.path.join(_FOLDER, f"{name}.json")
    with open(path, encoding="utf-8") as file:
        vectors: dict[str, Any] = json.load(file)
    return vectors
