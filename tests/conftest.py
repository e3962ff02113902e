"""What every test shares: a quiet, offline, single-threaded process, and the official folder where it is present."""

import os
from pathlib import Path

import pytest

# Before torch is imported anywhere: many small operations on spinning threads are slower than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def official_folder() -> Path:
    """Configuration, tokenizer and index files of the release; skips where they are not beside the checkout."""
    folder = ROOT.parent / "shared" / "official" / "MiniCPM-V-4_5"
    if not folder.is_dir():
        pytest.skip(f"the official files are not beside this checkout (looked in {os.path.relpath(folder, ROOT)})")
    return folder


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint folder of the `toy` size with random weights: it answers anything, quickly and wrongly."""
    import torch

    from minicpmv.model.configuration import MiniCPMVConfig
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
    from minicpmv.processing.image_processor import MiniCPMVImageProcessor
    from minicpmv.processing.processor import MiniCPMVProcessor
    from minicpmv.training.towers.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("toy")
    config = MiniCPMVConfig.preset("toy")
    tokenizer = train_tokenizer(["What does the sign say?", "the shape moves right"], config.text_config.vocab_size)
    config.text_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MiniCPMVForConditionalGeneration(config).save_pretrained(folder)
    image_processor = MiniCPMVImageProcessor(scale_resolution=config.slice_config["scale_resolution"])
    MiniCPMVProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder
