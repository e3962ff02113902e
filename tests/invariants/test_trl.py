"""TRL's trainer takes model and processor as they are: right labels, one step, every part moved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from minicpmv.errors import MessageError
from minicpmv.generation.loading import bundled_folder
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.collator import ConversationCollator

trl = pytest.importorskip("trl")

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL and datasets warn about themselves


COLOURS = ("red", "blue", "green", "white")


def in_messages(colour: str) -> dict[str, Any]:
    picture = Image.new("RGB", (112, 56), colour)
    turns = [{"role": "user", "content": "What colour?"}, {"role": "assistant", "content": colour}]
    return {"images": [picture], "messages": turns}


def in_two_columns(colour: str) -> dict[str, Any]:
    row = in_messages(colour)
    prompt, completion = row.pop("messages")
    return {**row, "prompt": [prompt], "completion": [completion]}


@pytest.mark.parametrize("form", [in_messages, in_two_columns])
def test_one_step_of_supervised_fine_tuning(form: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    from datasets import Dataset

    model = MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder(), dtype=torch.float32)
    processor = MiniCPMVProcessor.from_pretrained(bundled_folder())
    settings = trl.SFTConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        max_length=None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
    )
    trainer = trl.SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list([form(colour) for colour in COLOURS]),
        processing_class=processor,
        data_collator=ConversationCollator(processor),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    for labels in batch["labels"]:
        learned = processor.tokenizer.decode(labels[labels >= 0].tolist())
        assert learned in {f"<think>\n\n</think>\n\n{colour}<|im_end|>" for colour in COLOURS}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.train()
    moved = {name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"llm", "resampler", "vpm"}


def test_pictures_go_where_they_are_asked_for_and_must_fit() -> None:
    collate = ConversationCollator(MiniCPMVProcessor.from_pretrained(bundled_folder()))
    row = in_messages("red")
    row["messages"][0]["content"] = [{"type": "text", "text": "What", "image": None}, {"type": "image", "text": None}]
    assert len(collate([row])["visual_slots"]) == 1
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    turns = [row["messages"][0], called]
    ids = collate([{"messages": turns, "images": row["images"]}])["input_ids"][0]
    assert "look" in collate.processor.decode(ids)
    with pytest.raises(MessageError, match="2 images and 1 places"):
        collate([{**row, "images": row["images"] * 2}])
    with pytest.raises(MessageError, match="columns text"):
        collate([{"text": "hello"}])


def test_the_body_gives_what_the_head_reads() -> None:
    model = MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder(), dtype=torch.float32).eval()
    ids = torch.arange(40, 60)[None]
    with torch.no_grad():
        hidden = model.base_model(ids, use_cache=False).last_hidden_state
        assert torch.equal(model.get_output_embeddings()(hidden), model(ids, use_cache=False).logits)
