"""What an input will cost, before anything is decoded and without loading weights.

    files -> probe -> MediaPlan (slices, packs, tokens) ; + ModelNumbers -> Budget (tokens, memory, operations)

Floating point operations count 2 * m * n * k for every matrix product and nothing else: norms, activations and softmax
are below one per cent. Attention is counted in full, without the half that a causal mask saves.

- Vision: per item of n patches, the patch embedding, and per layer the four projections, the two products of attention
  inside the item (4 * n^2 * d) and the two of the MLP. Then the resampler: per pack of n patches, the projection of
  the patches, keys and values, the attention of the queries, and the projections of the queries and outputs.
- Prefill: per layer the projections (grouped keys and values), 4 * tokens^2 * (heads * head_dim), and the three
  matrices of the gated MLP; the vocabulary is multiplied once, for the last position.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minicpmv.processing.chat_template import VisualText
from minicpmv.processing.packing import order_items


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNumbers:
    """The numbers of a model that decide its cost. The example values in comments are those of MiniCPM-V 4.5."""

    num_queries: int  # 64
    patch: int  # 14
    vision_width: int  # 1152
    vision_mlp: int  # 4304
    vision_layers: int  # 27
    vision_positions: int  # 4900
    width: int  # 4096
    mlp: int  # 12288
    layers: int  # 36
    heads: int  # 32
    kv_heads: int  # 8
    head_dim: int  # 128
    vocabulary: int  # 151748
    tied_embeddings: bool  # False
    head_norms: bool  # True: Qwen3 normalises every head of queries and keys, Llama does not
    bytes_per_number: int  # 2 for bfloat16

    @property
    def vision_parameters(self) -> int:
        """Parameters of the vision tower."""
        d, mlp = self.vision_width, self.vision_mlp
        embeddings = 3 * self.patch**2 * d + d + self.vision_positions * d
        layer = 4 * (d * d + d) + (2 * d * mlp + mlp + d) + 4 * d
        return embeddings + self.vision_layers * layer + 2 * d

    @property
    def resampler_parameters(self) -> int:
        """Parameters of the resampler."""
        d = self.width
        attention = 4 * d * d + 4 * d
        return self.num_queries * d + d * d + self.vision_width * d + attention + 6 * d

    @property
    def llm_parameters(self) -> int:
        """Parameters of the language model."""
        d, inner, kv = self.width, self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = 2 * d * inner + 2 * d * kv + 3 * d * self.mlp + 2 * d + 2 * self.head_dim * self.head_norms
        tables = 1 if self.tied_embeddings else 2
        return tables * self.vocabulary * d + self.layers * layer + d

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.vision_parameters + self.resampler_parameters + self.llm_parameters

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers, in bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_number

    def item_flops(self, patches: int) -> int:
        """Operations of the vision tower for one item."""
        d = self.vision_width
        layer = 2 * patches * (4 * d * d + 2 * d * self.vision_mlp) + 4 * patches * patches * d
        return 2 * patches * 3 * self.patch**2 * d + self.vision_layers * layer

    def pack_flops(self, patches: int) -> int:
        """Operations of the resampler for one pack."""
        d, queries = self.width, self.num_queries
        read = 2 * patches * self.vision_width * d + 2 * patches * d * d * 2
        ask = 2 * queries * d * d * 3  # the queries' own projection, the attention's output, and `proj`
        return read + ask + 4 * queries * patches * d

    def prefill_flops(self, tokens: int) -> int:
        """Operations of the language model for a prompt, up to the logits of its last token."""
        d, inner, kv = self.width, self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = 2 * tokens * (2 * d * inner + 2 * d * kv + 3 * d * self.mlp) + 4 * tokens * tokens * inner
        return self.layers * layer + 2 * d * self.vocabulary


def numbers_of(config: Any, bytes_per_number: int = 2) -> ModelNumbers:
    """The numbers of a configuration object with `text_config` and `vision_config`.

    Args:
        config: a `MiniCPMVConfig`, or anything with the same attributes.
        bytes_per_number: 2 for bfloat16, 4 for float32.
    """
    text, vision = config.text_config, config.vision_config
    heads = text.num_attention_heads
    return ModelNumbers(
        num_queries=config.query_num,
        patch=vision.patch_size,
        vision_width=vision.hidden_size,
        vision_mlp=vision.intermediate_size,
        vision_layers=vision.num_hidden_layers,
        vision_positions=(vision.image_size // vision.patch_size) ** 2,
        width=text.hidden_size,
        mlp=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        tied_embeddings=bool(text.tie_word_embeddings),
        head_norms=text.model_type == "qwen3",
        bytes_per_number=bytes_per_number,
    )


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """One file as the model will see it. Sizes are in px, of the picture, frame or first page."""

    name: str
    kind: str
    width: int
    height: int
    texts: tuple[VisualText, ...]
    """What it contributes to the text; a document has one per page."""
    frame_times_s: tuple[float, ...] = ()
    frame_indices: tuple[int, ...] = ()
    """Of the frames that are looked at, among all of the file."""

    @property
    def num_packs(self) -> int:
        """Runs of visual tokens."""
        return sum(text.num_slots for text in self.texts)

    def to_dict(self, num_queries: int) -> dict[str, Any]:
        """The plan with the keys of `minicpmv plan --json`."""
        groups = [group for text in self.texts for group in text.groups]
        grid = groups[0].grid
        return {
            "file": self.name,
            "kind": self.kind,
            "width": self.width,
            "height": self.height,
            "grid": None if grid is None else list(grid),
            "items": [list(place.size) for place in order_items(groups)],
            "frames": sum(text.num_frames for text in self.texts),
            "packs": self.num_packs,
            "frame_times_s": [round(time, 6) for time in self.frame_times_s],
            "temporal_ids": [list(group.times) for group in groups for _ in range(group.num_packs)],
            "visual_tokens": self.num_packs * num_queries,
        }


@dataclass(frozen=True, slots=True)
class Budget:
    """The cost of a prompt: tokens, bytes, floating point operations."""

    prompt_tokens: int
    kv_bytes: int
    weights_bytes: int
    vision_flops: int
    prefill_flops: int

    def to_dict(self) -> dict[str, int]:
        """The totals with the keys of `minicpmv plan --json`."""
        return asdict(self)


def vision_flops(texts: Sequence[VisualText], numbers: ModelNumbers) -> int:
    """Operations of the tower and the resampler for everything that will be seen."""
    total = 0
    for text in texts:
        packs: dict[int, int] = {}
        for place in order_items(text.groups):
            patches = (place.size.width // numbers.patch) * (place.size.height // numbers.patch)
            total += numbers.item_flops(patches)
            packs[place.pack] = packs.get(place.pack, 0) + patches
        total += sum(numbers.pack_flops(patches) for patches in packs.values())
    return total


def plan_budget(media: Sequence[MediaPlan], prompt_tokens: int, numbers: ModelNumbers) -> Budget:
    """The cost of a prompt.

    Args:
        media: the files, as `media_plans.plan_part` gives them.
        prompt_tokens: length of the prompt, as `MiniCPMVProcessor.count_tokens` gives it.
        numbers: the model.
    """
    return Budget(
        prompt_tokens=prompt_tokens,
        kv_bytes=prompt_tokens * numbers.kv_bytes_per_token,
        weights_bytes=numbers.parameters * numbers.bytes_per_number,
        vision_flops=vision_flops([text for plan in media for text in plan.texts], numbers),
        prefill_flops=numbers.prefill_flops(prompt_tokens),
    )
