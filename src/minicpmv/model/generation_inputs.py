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

from minicpmv.errors import OptionError
from minicpmv.model.visual_inputs import ITEM_KEYS, VISUAL_KEYS, keep_packs


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
            return {**prepared, **visual}  # nothing for a text prompt; pictures without slots are refused by the model
        step = prepared.get("input_ids")
        length = step.shape[1] if step is not None else prepared["inputs_embeds"].shape[1]
        skipped = input_ids.shape[1] - length
        keep = slots[:, 1] >= skipped
        if not bool(keep.any()):
            return prepared
        if bool(keep.all()) and skipped == 0:
            return {**prepared, **visual}
        kept = keep_packs(visual, keep)
        return {**prepared, **kept, "visual_slots": kept["visual_slots"] - slots.new_tensor([0, skipped])}

    def _prefill(self, input_ids: Tensor, generation_config: Any, model_kwargs: dict[str, Any], **kwargs: Any) -> Any:
        """Reading the prompt piece by piece would cut through slots, or put a picture into each piece."""
        if generation_config.prefill_chunk_size is not None and model_kwargs.get("visual_slots") is not None:
            raise OptionError(
                f"prefill_chunk_size is {generation_config.prefill_chunk_size}, but the prompt has pictures or clips.",
                remedy="Leave it out, or use it with text only.",
            )
        return super()._prefill(input_ids, generation_config, model_kwargs, **kwargs)  # type: ignore[misc]

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
        if expand_size > 1 and "visual_slots" in visual:
            copies = torch.arange(expand_size, device=visual["visual_slots"].device)
            slots = visual["visual_slots"]
            rows = slots[:, 0, None] * expand_size + copies
            columns = slots[:, 1, None].expand_as(rows)
            features = visual.get("visual_features")
            if features is None:
                tensors = {key: value for key, value in visual.items() if key in ITEM_KEYS}
                features = self.get_visual_features(**tensors)  # type: ignore[attr-defined]
            features = features.repeat_interleave(expand_size, dim=0)
            visual = {"visual_features": features, "visual_slots": torch.stack([rows.flatten(), columns.flatten()], 1)}
        return input_ids, {**kwargs, **visual}
