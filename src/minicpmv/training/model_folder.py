"""The finished run as a model folder that everybody can load.

    learner + tokenizer -> config.json, model.safetensors (bf16), tokenizer and processor files, generation defaults

The folder is written beside its place and moved there by one rename.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.video_processor import MiniCPMVVideoProcessor

LONGEST_ANSWER = 512
"""In tokens; about twice that of the worlds. A small model that is asked beyond them may go on until it is stopped."""


def build_processor(
    model: MiniCPMVForConditionalGeneration, tokenizer: Any, clips: MiniCPMVVideoProcessor
) -> MiniCPMVProcessor:
    """The processor that fits a model's configuration.

    Args:
        model: whose slice settings and number of queries count.
        tokenizer: its tokenizer.
        clips: how clips are sampled and packed unless a caller asks otherwise.
    """
    config = model.config
    pictures = MiniCPMVImageProcessor(
        max_slice_nums=config.slice_config["max_slice_nums"],
        scale_resolution=config.scale_resolution,
        image_feature_size=config.query_num,
        use_image_id=config.use_image_id,
    )
    return MiniCPMVProcessor(pictures, tokenizer, clips)


def write_model_folder(
    folder: Path,
    model: MiniCPMVForConditionalGeneration,
    processor: MiniCPMVProcessor,
    *,
    dtype: torch.dtype,
    generation: GenerationConfig | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a complete model folder, replacing an older one.

    Args:
        folder: where it will be.
        model: weights; left as they are.
        processor: its processor.
        dtype: number format of the stored weights.
        generation: how it answers unless a caller asks otherwise; by default greedily and briefly, as fits a small
            model.
        weights: by name, where those of `model` are spread over several processes.
    """
    tokenizer = processor.tokenizer
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    # Copies: training goes on with the tensors themselves.
    kept = {name: tensor.detach().to(dtype, copy=True) for name, tensor in (weights or model.state_dict()).items()}
    config = MiniCPMVConfig(**model.config.to_dict())
    config.text_config.eos_token_id = tokenizer.eos_token_id
    config.text_config.bos_token_id = tokenizer.pad_token_id  # as in the release: <|endoftext|>
    with torch.device("meta"):
        stored = MiniCPMVForConditionalGeneration(config)
    stored.load_state_dict(kept, assign=True)
    stored.config.dtype = dtype
    stored.config.vision_config.dtype = None  # said once, for the whole model
    stored.generation_config = generation or GenerationConfig(
        max_new_tokens=LONGEST_ANSWER,
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    stored.save_pretrained(fresh)
    processor.save_pretrained(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
