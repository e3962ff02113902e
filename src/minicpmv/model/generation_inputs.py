"""How visual inputs travel through transformers' `generate`.

Visual tensors are ragged over the whole batch, so the generic rule "repeat every tensor along its first axis" does not
fit them. Here they are encoded once, repeated by sample for beams and several answers, and dropped after the prompt
has been read. A cache that already holds the start of a conversation keeps its pictures: only slots beyond it are
filled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minicpmv.model.visual_inputs import VISUAL_KEYS


class VisualGeneration:
    """Overrides of `GenerationMixin` for models with ragged visual inputs."""

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The inputs of one step; visual ones only where the step covers their slots."""
        visual = {key: kwargs.pop(key) for key in VISUAL_KEYS if key in kwargs}
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, *args, past_key_values=past_key_values, **kwargs
        )
        slots = visual.get("visual_slots")
        if slots is None or slots.shape[0] == 0:
            return prepared
        step = prepared.get("input_ids")
        length = step.shape[1] if step is not None else prepared["inputs_embeds"].shape[1]
        skipped = input_ids.shape[1] - length
        keep = slots[:, 1] >= skipped
        if bool(keep.all()) and skipped == 0:
            return {**prepared, **visual}
        if not bool(keep.any()):
            return prepared
        features = self._features_of(visual)[keep.to(self.device)]  # type: ignore[attr-defined]
        shifted = slots[keep] - torch.tensor([0, skipped], device=slots.device)
        return {**prepared, "visual_features": features, "visual_slots": shifted}

    def _features_of(self, visual: dict[str, Any]) -> Tensor:
        features: Tensor | None = visual.get("visual_features")
        if features is None:
            tensors = {
                key: visual[key] for key in ("pixel_values", "item_shapes", "item_packs", "item_times") if key in visual
            }
            features = self.get_visual_features(**tensors)  # type: ignore[attr-defined]
        return features

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat each sample `expand_size` times; pictures are encoded once and shared by the copies."""
        visual = {key: kwargs.pop(key) for key in VISUAL_KEYS if kwargs.get(key) is not None}
        input_ids, kwargs = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **kwargs
        )
        if not visual:
            return input_ids, kwargs
        if expand_size > 1:
            copies = torch.arange(expand_size, device=visual["visual_slots"].device)
            slots = visual["visual_slots"]
            rows = slots[:, 0, None] * expand_size + copies
            columns = slots[:, 1, None].expand_as(rows)
            features = self._features_of(visual).repeat_interleave(expand_size, dim=0)
            visual = {"visual_features": features, "visual_slots": torch.stack([rows.flatten(), columns.flatten()], 1)}
        return input_ids, {**kwargs, **visual}
