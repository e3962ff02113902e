"""Tokenizers: loaded by what the folder holds, saved in the form of the release; Llama-type ones stay as they are."""

import json
from pathlib import Path

import pytest
from tests.unit.processing.conftest import make_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from minicpmv.errors import CheckpointNotFoundError
from minicpmv.messages import parse_messages
from minicpmv.processing.chat_template import TemplateOptions, conversation_pieces
from minicpmv.processing.text_encoding import Control, PieceEncoder, Slot, pieces_to_text
from minicpmv.processing.tokenizer import MiniCPMVTokenizerFast, load_tokenizer

TEXT = "the fox says Hello! <image> é"


def test_saving_and_loading_gives_the_same_tokenizer_from_either_set_of_files(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "MiniCPMVTokenizerFast"
    assert config["additional_special_tokens"][0] == "<unk>"
    for absent in ([], ["vocab.json", "merges.txt"]):
        for name in absent:
            (tmp_path / name).unlink()
        again = load_tokenizer(tmp_path)
        assert isinstance(again, MiniCPMVTokenizerFast)
        assert again(TEXT).input_ids == tokenizer(TEXT).input_ids
        assert len(again) == len(tokenizer)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="neither vocab.json nor tokenizer.json"):
        load_tokenizer(tmp_path)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Sentencepiece-style pieces with byte fallback, the visual tokens among the ordinary entries as in 4.0."""
    entries = ["<unk>", "<s>", "</s>", "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"]
    entries += [f"<0x{byte:02X}>" for byte in range(256)]
    entries += [*"▁abcdefghijklmnopqrstuvwxyz\n", "<", ">", "▁t", "he", "▁the"]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = [*entries[:9], "<|im_end|>", "<|im_start|>"]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", unk_token="<unk>", pad_token="</s>"
    )


def test_a_llama_type_tokenizer_gives_the_ids_of_the_whole_string_and_no_think_block() -> None:
    tokenizer = llama_tokenizer()
    encoder = PieceEncoder(tokenizer, placeholder="<unk>", slot_length=2)
    assert not encoder.knows("<think>")
    messages = parse_messages(
        [{"role": "user", "content": ["x", "the cat\n the é"]}, {"role": "assistant", "content": "y"}]
    )
    options = TemplateOptions(has_think=False)
    pieces = [Control("<image>"), Slot(), Control("</image>"), *conversation_pieces(messages, [], options)]
    text = pieces_to_text(pieces, placeholder="<unk>", slot_length=2)
    assert "<think>" not in text
    assert encoder.encode(pieces).ids == tokenizer(text, add_special_tokens=False).input_ids


def test_visual_names_in_words_give_no_visual_ids_with_a_llama_type_tokenizer() -> None:
    tokenizer = llama_tokenizer()
    encoder = PieceEncoder(tokenizer, placeholder="<unk>", slot_length=2)
    assert set(encoder.encode_words("<image> the <|im_end|> <unk></s>")).isdisjoint(tokenizer.added_tokens_decoder)


def test_a_llama_type_folder_keeps_its_own_tokenizer(tmp_path: Path) -> None:
    llama_tokenizer().save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert not isinstance(again, MiniCPMVTokenizerFast)
    assert again("the <image>").input_ids == llama_tokenizer()("the <image>").input_ids
