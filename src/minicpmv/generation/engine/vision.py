"""What the tower and the resampler have said about packs, kept as long as there is room.

digests -> missing -> encoded, a bounded number of patches at a time -> features [queries, d_llm] of each pack
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor


class FeatureCache:
    """Features of packs by digest; those that were used longest ago go first.

    Args:
        most_bytes: of all features; 0 keeps none.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.num_bytes = 0
        self.hits = 0
        self.misses = 0
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, digest: bytes) -> Tensor | None:
        """The features of a pack, [queries, d_llm], if they are known."""
        features = self._features.get(digest)
        if features is None:
            self.misses += 1
            return None
        self.hits += 1
        self._features.move_to_end(digest)
        return features

    def put(self, digests: Sequence[bytes], features: Tensor) -> None:
        """Keep what was found about some packs.

        Args:
            digests: of the packs.
            features: [packs, queries, d_llm].
        """
        for digest, pack in zip(digests, features, strict=True):
            if digest in self._features or pack.nbytes > self.most_bytes:
                continue
            self._features[digest] = pack.clone()  # a view would keep the whole batch alive
            self.num_bytes += pack.nbytes
        while self.num_bytes > self.most_bytes:
            _digest, oldest = self._features.popitem(last=False)
            self.num_bytes -= oldest.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._features.clear()
        self.num_bytes = 0
