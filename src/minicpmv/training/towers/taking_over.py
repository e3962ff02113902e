"""Towers that go on from a model instead of growing from nothing.

    TowersRecipe.start -> take_over(learner's model, start, tokenizer) -> its tower, its language model, its words

The resampler stays new: the one that is there speaks to its language model in a language of its own, and says nothing
in the codes that `letters` teaches. Everything else that was learned before stays.
"""

from pathlib import Path
from typing import Any

import torch

from minicpmv.generation.loading import explained, read_config, read_processor
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.training.joining import OF_LANGUAGE, OF_TOWER, refuse_other_sizes, rows_by_token

_WORDS = ("model.embed_tokens", "lm_head")


@torch.no_grad()
def take_over(model: MiniCPMVForConditionalGeneration, source: str | Path, tokenizer: Any) -> None:
    """Give a model the tower and the language model of another one; tokens that are spelled alike keep their rows.

    Args:
        model: blank, with the vocabulary of `tokenizer`.
        source: folder of the other model.
        tokenizer: of the run.

    Raises:
        CheckpointError: the other model is missing, damaged, or of other sizes.
    """
    wanted, found = model.config, read_config(source)
    refuse_other_sizes(str(source), found.text_config, wanted.text_config, OF_LANGUAGE)
    refuse_other_sizes(str(source), found.vision_config, wanted.vision_config, OF_TOWER)
    with explained(str(source)):
        other = MiniCPMVForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    own = read_processor(source).tokenizer.get_vocab()
    language = dict(other.llm.state_dict())
    for part in _WORDS:
        name = f"{part}.weight"
        language[name] = rows_by_token(language[name], own, tokenizer.get_vocab(), wanted.text_config.vocab_size)
    model.llm.load_state_dict(language)
    model.vpm.load_state_dict(other.vpm.state_dict())
