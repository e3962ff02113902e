"""A processor of the released kind, small enough to make in a moment: byte-level BPE, all special names, the layout."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.tokenizer import MiniCPMVTokenizerFast

WORDS = "the quick brown fox says what is in the picture and which colour appears first in the clip assistant user "
VISUAL = ["<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>", "<unit>", "</unit>"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *VISUAL]
VISIBLE = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


def make_tokenizer() -> MiniCPMVTokenizerFast:
    """A byte-level vocabulary of a few hundred entries in which, as in the release, `<unk>` is an ordinary entry."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        [WORDS * 3, "\n\n user\n assistant\n Hello! Hi?"],
        trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False),
    )
    vocabulary = learner.get_vocab()
    merges = learner_merges(learner)
    vocabulary["<unk>"] = len(vocabulary)
    tokens = [AddedToken(name, special=True, normalized=False) for name in SPECIAL]
    tokens += [AddedToken(name, special=False, normalized=False) for name in VISIBLE]
    return MiniCPMVTokenizerFast(
        vocab=vocabulary,
        merges=merges,
        unk_token="<unk>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<unk>", *VISUAL],
        added_tokens_decoder=dict(enumerate(tokens, len(vocabulary))),
    )


def learner_merges(learner: Tokenizer) -> list[tuple[str, str]]:
    merges: list[Any] = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges]


def make_processor(slot_length: int = 4, **options: Any) -> MiniCPMVProcessor:
    """The released settings at a quarter of the area, with short slots."""
    options = {"scale_resolution": 112, "image_feature_size": slot_length} | options
    return MiniCPMVProcessor(MiniCPMVImageProcessor(**options), make_tokenizer())


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def processor() -> MiniCPMVProcessor:
    return make_processor()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames of 96 x 64 px at ten per second, each a grey of its own."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(20):
            pixels = np.full((64, 96, 3), 10 + 12 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path
