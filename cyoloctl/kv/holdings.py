"""Which sealed values are under which key of the ring."""

from __future__ import annotations

from itertools import islice

from cyoloctl.kv.records import Place

__all__ = ["Holdings"]


class Holdings:
    """Places of sealed values by key id.  What it says depends on the values alone, its order does not."""

    def __init__(self) -> None:
        self._key_of: dict[Place, str] = {}
        self._places: dict[str, dict[Place, None]] = {}

    def __len__(self) -> int:
        return len(self._key_of)

    def put(self, place: Place, key_id: str) -> None:
        """This value is there, or was sealed again, under this key."""
        self.drop(place)
        self._key_of[place] = key_id
        self._places.setdefault(key_id, {})[place] = None

    def drop(self, place: Place) -> None:
        """This value, if it was a sealed one, is forgotten."""
        key_id = self._key_of.pop(place, None)
        if key_id is not None:
            del self._places[key_id][place]
            if not self._places[key_id]:
                del self._places[key_id]

    def count(self, key_id: str) -> int:
        """How many values only this key opens."""
        return len(self._places.get(key_id, ()))

    def key_ids(self) -> list[str]:
        """The keys that open a value."""
        return sorted(self._places)

    def first(self, key_id: str, most: int) -> list[Place]:
        """At most so many of the values under a key."""
        return list(islice(self._places.get(key_id, ()), most))
