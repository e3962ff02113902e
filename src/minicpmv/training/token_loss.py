"""The loss of some rows: cross-entropy of the tokens that count, as a sum.

    rows -> hidden states -> those before a target -> logits, a chunk at a time -> CrossEntropy per target

Logits of every token would be the largest tensor of the step: a row of 8192 tokens over 151,748 entries takes 5 GB in
float32. Only tokens that are followed by a target need them, and of these a chunk at a time. The sum is divided by the
number of targets of the *whole* step, over all rows and processes, so neither packing nor accumulation nor the number
of processes changes what is learned.
"""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.model.row_attention import BY_SAMPLE, sample_lengths
from minicpmv.processing.collate import IGNORED
from minicpmv.training.dense import ASKED, DenseHeads, watching

TARGETS_PER_CHUNK = 2048
"""Targets whose logits exist at the same time: 1.2 GB in float32 with the released vocabulary."""


class TokenLoss(nn.Module):
    """A model as a function from rows to losses; what data-parallel wrappers wrap.

    Args:
        model: the model. Adapters that peft put into it work as they are: they live inside its layers.
        heads: of dense losses; None without them.
    """

    def __init__(self, model: MiniCPMVForConditionalGeneration, heads: DenseHeads | None = None) -> None:
        super().__init__()
        self.model: MiniCPMVForConditionalGeneration = model
        self.heads: DenseHeads | None = heads

    def forward(
        self,
        labels: Tensor,
        letters: Tensor | None = None,
        slot_letters: Tensor | None = None,
        things: Tensor | None = None,
        **inputs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of every target, row by row, in order; and the dense losses.

        Args:
            labels: int64 [rows, tokens], -100 where nothing is learned.
            letters: int64 [patches, 3], -100 where nothing is asked of the tower.
            slot_letters: int64 [packs, queries, 6], likewise of the resampler.
            things: int64 [patches, 2], likewise of the tower.
            **inputs: as the model's `forward` takes them.

        Returns:
            float32 [targets]; for rows without targets a single 0 that depends on the model, so that every process
            takes part in every backward pass. And float32 [5], the sums of the dense losses in the order of
            `dense.ASKED`, 0 where there are no heads or no pictures.
        """
        if self.model.config.text_config._attn_implementation == BY_SAMPLE:
            inputs["sample_lengths"] = sample_lengths(inputs["position_ids"])
        with watching(self.model) if self.heads is not None else contextlib.nullcontext() as seen:
            hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        dense = hidden.new_zeros(len(ASKED), dtype=torch.float32)
        if self.heads is not None:
            dense = dense + self.heads.no_loss()
            if seen is not None and letters is not None and slot_letters is not None and things is not None:
                dense = dense + self.heads.losses(seen, letters, slot_letters, things)
        wanted = labels[:, 1:]
        counts = wanted != IGNORED
        before, targets = hidden[:, :-1][counts], wanted[counts]
        if not len(targets):
            return self._losses(hidden[0, :1], labels[0, :1].clamp(min=0)) * 0, dense
        losses = [
            checkpoint(self._losses, part, target, use_reentrant=False)
            if torch.is_grad_enabled() and len(targets) > TARGETS_PER_CHUNK
            else self._losses(part, target)
            for part, target in zip(before.split(TARGETS_PER_CHUNK), targets.split(TARGETS_PER_CHUNK), strict=True)
        ]
        return torch.cat(losses), dense

    def _losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits: Tensor = self.model.llm.lm_head(hidden)
        return F.cross_entropy(logits.float(), targets, reduction="none")
