"""How probable a model thinks given tokens are: one pass over prompt and answer, nothing is generated.

inputs with labels -> hidden states -> those before a label -> logits in float32 -> log probability per label
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.collate import IGNORED


def log_probabilities(model: MiniCPMVForConditionalGeneration, inputs: Mapping[str, Any]) -> list[list[float]]:
    """Natural logarithm of the probability of every label after all that stands before it.

    Args:
        model: in evaluation mode.
        inputs: as its `forward` takes them, padded on any side, on any device; `labels` are -100 where nothing is
            asked.

    Returns:
        A list per row, in the order of its labels.
    """
    tensors = {name: value.to(model.device) for name, value in inputs.items() if isinstance(value, Tensor)}
    labels = tensors.pop("labels")
    # As in `generate`: the first real token is at place 0, wherever the padding is.
    positions = (tensors["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        hidden = model.base_model(**tensors, position_ids=positions, use_cache=False).last_hidden_state
        wanted = labels[:, 1:]
        asked = wanted != IGNORED
        # Logits of every token would be by far the largest tensor; only those before a label are needed.
        scores = model.llm.lm_head(hidden[:, :-1][asked]).float().log_softmax(-1)
        found = scores.gather(1, wanted[asked].unsqueeze(1)).squeeze(1).tolist()
    lengths = asked.sum(1).tolist()
    starts = [sum(lengths[:row]) for row in range(len(lengths))]
    return [found[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def with_answers(inputs: Mapping[str, Any], answers: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Prompts that are padded on the left, continued by answers, which are the labels.

    Args:
        inputs: `input_ids` and `attention_mask` [batch, tokens], and whatever belongs to pictures.
        answers: ids, one list per prompt.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    longest = max(1, *(len(answer) for answer in answers))
    added = torch.zeros(len(answers), longest, dtype=ids.dtype)
    real = torch.zeros(len(answers), longest, dtype=mask.dtype)
    for row, answer in enumerate(answers):
        added[row, : len(answer)] = torch.tensor(answer, dtype=ids.dtype)
        real[row, : len(answer)] = 1
    added, real = added.to(ids.device), real.to(mask.device)
    labels = torch.cat([torch.full_like(ids, IGNORED), added.masked_fill(real == 0, IGNORED)], dim=1)
    return {
        **inputs,
        "input_ids": torch.cat([ids, added], dim=1),
        "attention_mask": torch.cat([mask, real], dim=1),
        "labels": labels,
    }
