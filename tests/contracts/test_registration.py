"""transformers' Auto classes know the family, whichever of the two packages is imported first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

import minicpmv
from minicpmv.model.configuration import MiniCPMVConfig

ORDERS = {
    "ours first": "import minicpmv; from transformers import AutoModelForImageTextToText as Auto, AutoConfig",
    "theirs first": "from transformers import AutoModelForImageTextToText as Auto, AutoConfig; import minicpmv",
    "between": "from transformers import AutoConfig; import minicpmv; "
    "from transformers import AutoModelForImageTextToText as Auto",
    "the package alone first": "import transformers, minicpmv; from transformers import AutoConfig; "
    "Auto = transformers.AutoModelForImageTextToText",
    "a model class first": "from transformers import Qwen3ForCausalLM; import minicpmv; "
    "from transformers import AutoModelForImageTextToText as Auto, AutoConfig",
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_checkpoint_is_found_in_every_order_of_imports(order: str, toy_folder: Path, repository: Path) -> None:
    program = (
        f"{ORDERS[order]}; import torch\n"
        f"config = AutoConfig.from_pretrained({str(toy_folder)!r})\n"
        "with torch.device('meta'): print(type(Auto.from_config(config)).__name__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "MiniCPMVForConditionalGeneration", done.stderr


def test_every_auto_class_gives_ours(toy_folder: Path) -> None:
    made = [
        AutoConfig.from_pretrained(toy_folder),
        AutoModelForImageTextToText.from_pretrained(toy_folder),
        AutoTokenizer.from_pretrained(toy_folder),
        AutoImageProcessor.from_pretrained(toy_folder),
        AutoProcessor.from_pretrained(toy_folder),
    ]
    assert [type(one).__name__ for one in made] == [
        "MiniCPMVConfig",
        "MiniCPMVForConditionalGeneration",
        "MiniCPMVTokenizerFast",
        "MiniCPMVImageProcessor",
        "MiniCPMVProcessor",
    ]
    assert isinstance(made[0], minicpmv.MiniCPMVConfig)


def test_the_official_configuration_is_ours_without_remote_code(official_folder: Path) -> None:
    assert type(AutoConfig.from_pretrained(official_folder)) is MiniCPMVConfig
    assert type(AutoProcessor.from_pretrained(official_folder)) is minicpmv.MiniCPMVProcessor


def test_the_pipeline_answers_about_a_picture(toy_folder: Path) -> None:
    answer = pipeline("image-text-to-text", model=str(toy_folder), device="cpu")
    picture = Image.new("RGB", (56, 56), "red")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
    out = answer(text=[{"role": "user", "content": content}], max_new_tokens=4, return_full_text=False)
    assert isinstance(out[0]["generated_text"], str)
