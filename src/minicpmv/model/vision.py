"""The vision tower: SigLIP2 in the NaViT manner, any aspect ratio, every picture at its own size.

    pixel rows [patches, 588] -> embed + position -> blocks (attention inside each item) -> features [patches, d_vision]

All patches of a batch lie one after another in one tensor and no position is ever padded. The parameters carry the
names of the released checkpoint; the patch embedding is stored as a convolution and applied as the matrix it is.

Source: modeling_navit_siglip.py of MiniCPM-V 4.5. Deviation: ragged instead of padded and masked; outputs agree
(tests/parity/test_vision_vectors.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from minicpmv.errors import ShapeContractError
from minicpmv.model.configuration import MiniCPMVVisionConfig
from minicpmv.model.positions import patch_position_ids
from minicpmv.model.ragged import self_attention

Shapes = Sequence[tuple[int, int]]


class PatchEmbedding(nn.Conv2d):
    """A convolution over whole patches, which is one matrix: stored as the former, applied as the latter.

    It reads its own weight in its own `forward`, so that hooks that bring weights in from memory or disk find it.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """[patches, 588], flattened channel first, to [patches, d_vision]."""
        return F.linear(rows.to(self.weight.dtype), self.weight.flatten(1), self.bias)


class VisionEmbeddings(nn.Module):
    """Patches to vectors: a linear map of the 588 pixel values, plus a learned position."""

    def __init__(self, config: MiniCPMVVisionConfig) -> None:
        super().__init__()
        side = config.patch_size
        self.num_buckets = config.position_buckets
        self.patch_embedding = PatchEmbedding(config.num_channels, config.hidden_size, kernel_size=side, stride=side)
        self.position_embedding = nn.Embedding(self.num_buckets**2, config.hidden_size)

    def forward(self, pixel_values: Tensor, shapes: Shapes) -> Tensor:
        """[patches, 588] and the item shapes to [patches, d_vision]."""
        ids = patch_position_ids(shapes, self.num_buckets).to(pixel_values.device)
        embedded: Tensor = self.patch_embedding(pixel_values) + self.position_embedding(ids)
        return embedded


class VisionAttention(nn.Module):
    """Multi-head attention within each item."""

    def __init__(self, config: MiniCPMVVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scale = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        """[patches, d_vision] and the item lengths to [patches, d_vision]."""
        heads = (self.num_heads, -1)
        queries, keys, values = (p(hidden).unflatten(-1, heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        implementation = self.config._attn_implementation or "sdpa"
        mixed = self_attention(queries, keys, values, lengths, implementation=implementation, scale=self.scale)
        return self.out_proj(mixed.flatten(-2))


class VisionMLP(nn.Module):
    """Two linear maps around a tanh-approximated GELU."""

    def __init__(self, config: MiniCPMVVisionConfig) -> None:
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[patches, d_vision] to the same."""
        return self.fc2(self.activation(self.fc1(hidden)))


class VisionLayer(GradientCheckpointingLayer):
    """One pre-norm block."""

    def __init__(self, config: MiniCPMVVisionConfig) -> None:
        super().__init__()
        self.self_attn = VisionAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        """[patches, d_vision] to the same."""
        hidden = hidden + self.self_attn(self.layer_norm1(hidden), lengths)
        return hidden + self.mlp(self.layer_norm2(hidden))


class VisionEncoder(nn.Module):
    """The stack of blocks (a module of its own because the checkpoint's names say `encoder.layers`)."""

    def __init__(self, config: MiniCPMVVisionConfig, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(num_layers))


class MiniCPMVVisionModel(PreTrainedModel):
    """The tower.

    Args:
        config: sizes; `config._attn_implementation` chooses the attention path.
        num_layers: blocks to build, `config.num_hidden_layers` unless the checkpoint drops its last one.
    """

    config_class = MiniCPMVVisionConfig
    base_model_prefix = "vpm"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["VisionEmbeddings", "VisionLayer"]  # noqa: RUF012  (transformers reads a list)

    def __init__(self, config: MiniCPMVVisionConfig, num_layers: int | None = None) -> None:
        super().__init__(config)
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config, config.num_hidden_layers if num_layers is None else num_layers)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Yes: the blocks read `config._attn_implementation` at each call (transformers guesses from source text)."""
        return True

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding (transformers enables input gradients through it)."""
        return self.embeddings.patch_embedding

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Scaled by fan-in, as SigLIP does; a table of positions starts at 0.02."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor, item_shapes: Tensor | Shapes) -> Tensor:
        """Encode the patches of a ragged batch.

        Args:
            pixel_values: [patches, 588], normalised, items one after another, row-major inside an item.
            item_shapes: (rows, columns) of each item, int64 [items, 2] or pairs.

        Returns:
            [patches, d_vision], after the final norm.

        Raises:
            ShapeContractError: the item areas do not sum to the number of patches.
        """
        shapes = as_shapes(item_shapes)
        lengths = [rows * columns for rows, columns in shapes]
        if sum(lengths) != pixel_values.shape[0]:
            raise ShapeContractError(
                f"pixel_values has {pixel_values.shape[0]} patches but item_shapes of {len(shapes)} items cover "
                f"{sum(lengths)}.",
                remedy="Pass both as the processor returned them.",
            )
        hidden = self.embeddings(pixel_values, shapes)
        for layer in self.encoder.layers:
            hidden = layer(hidden, lengths)
        return self.post_layernorm(hidden)


def as_shapes(item_shapes: Tensor | Shapes) -> list[tuple[int, int]]:
    """Item shapes as Python pairs; a tensor is read in one transfer."""
    if isinstance(item_shapes, Tensor):
        return [(rows, columns) for rows, columns in item_shapes.tolist()]
    return [(int(rows), int(columns)) for rows, columns in item_shapes]
