"""What a question will cost, from the configuration and the sizes of the files alone: no weights, no tower.

checkpoint folder -> config, processor ;  parts -> MediaPlan ;  both -> Plan(files, total)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minicpmv.errors import OptionError
from minicpmv.generation.loading import DTYPES, find_checkpoint, read_config, read_processor
from minicpmv.messages import Message, Part, TextPart
from minicpmv.processing.budget import Budget, MediaPlan, numbers_of, plan_budget
from minicpmv.processing.media_plans import MediaPlanner

if TYPE_CHECKING:
    from minicpmv.model.configuration import MiniCPMVConfig
    from minicpmv.processing.processor import MiniCPMVProcessor


@dataclass(frozen=True, slots=True)
class Plan:
    """Every file as the model will see it, and what the whole prompt costs."""

    model: str
    files: tuple[MediaPlan, ...]
    total: Budget
    context_tokens: int
    num_queries: int

    @property
    def visual_tokens(self) -> int:
        """Tokens of the prompt that stand for pictures and clips."""
        return self.num_queries * sum(file.num_packs for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        """The plan as `minicpmv plan --json` prints it."""
        total = {**self.total.to_dict(), "visual_tokens": self.visual_tokens, "context_tokens": self.context_tokens}
        return {"model": self.model, "files": [file.to_dict(self.num_queries) for file in self.files], "total": total}


def plan(
    parts: Sequence[tuple[str, Part]],
    question: str = "",
    *,
    model: str | Path | None = None,
    think: bool = False,
    dtype: str = "auto",
) -> Plan:
    """Plan one question about some files.

    Args:
        parts: a name and a picture, document or clip for each file.
        question: its tokens are counted too; empty leaves it out.
        model: a folder, a hub id, or None for the bundled nano; only its configuration is read.
        think: plan for the long mode.
        dtype: the numbers that weights and cache are kept in; `auto` is the checkpoint's.

    Raises:
        CheckpointNotFoundError: there is no such checkpoint.
        MediaError: a file cannot be read.
    """
    if dtype not in DTYPES:
        raise OptionError(f"The dtype is {dtype!r}.", remedy=f"Choose one of {', '.join(DTYPES)}.")
    source = find_checkpoint(model)
    config, processor = read_config(source), read_processor(source)
    kept = getattr(config, "dtype", None) if dtype == "auto" else getattr(torch, dtype)
    name = "nano" if model is None else str(model)
    return plan_with(config, processor, parts, question, name=name, think=think, dtype=kept or torch.float32)


def plan_with(
    config: "MiniCPMVConfig",
    processor: "MiniCPMVProcessor",
    parts: Sequence[tuple[str, Part]],
    question: str = "",
    *,
    name: str,
    think: bool,
    dtype: torch.dtype,
) -> Plan:
    """The same for a checkpoint that has been read.

    Args:
        config: of the checkpoint.
        processor: of the checkpoint.
        parts: as for `plan`.
        question: as for `plan`.
        name: what to call the model.
        think: as for `plan`.
        dtype: the numbers that weights and cache are kept in.

    Raises:
        MediaError: a file cannot be read.
    """
    planner = MediaPlanner(processor.image_processor, processor.video_processor)
    files = tuple(planner.plan(part, file) for file, part in parts)
    said = [TextPart(question)] if question else []
    num_tokens = processor.count_tokens(
        [Message("user", (*(part for _, part in parts), *said))],
        [file.texts for file in files],
        add_generation_prompt=True,
        thinking=think,
    )
    numbers = numbers_of(config, bytes_per_number=dtype.itemsize)
    return Plan(
        model=name,
        files=files,
        total=plan_budget(files, num_tokens, numbers),
        context_tokens=int(config.text_config.max_position_embeddings),
        num_queries=numbers.num_queries,
    )
