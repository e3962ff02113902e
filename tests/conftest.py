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
    """The release's configuration, tokenizer and index files; tests that need them are skipped where they are absent."""
    folder = ROOT.parent / "shared" / "official" / "MiniCPM-V-4_5"
    if not folder.is_dir():
        pytest.skip(f"the official files are not beside this checkout (looked in {os.path.relpath(folder, ROOT)})")
    return folder
