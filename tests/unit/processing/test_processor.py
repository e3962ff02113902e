"""The processor: every kind of part, options at three levels, placeholders, labels, and errors with counts."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pytest
import torch
from PIL import Image
from tests.unit.processing.conftest import make_processor, make_tokenizer, picture

from minicpmv.errors import ContextLengthError, MediaError, MessageError, OptionError
from minicpmv.messages import DocumentPart, ImagePart, Message, TextPart, VideoPart
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.video_processor import MiniCPMVVideoProcessor

VISUAL_KEYS = {"pixel_values", "item_shapes", "item_packs", "item_times", "visual_slots"}


def encode(processor: MiniCPMVProcessor, content: Any, **options: Any) -> dict[str, Any]:
    defaults = {"tokenize": True, "return_dict": True, "return_tensors": "np", "add_generation_prompt": True}
    return dict(processor.apply_chat_template([{"role": "user", "content": content}], **defaults | options))


def images_in(inputs: dict[str, Any]) -> int:
    return len(inputs["item_shapes"])


def test_text_alone_has_no_visual_inputs(processor: MiniCPMVProcessor) -> None:
    inputs = encode(processor, "Hi")
    assert set(inputs) == {"input_ids", "attention_mask"}


def test_every_slot_starts_at_a_run_of_placeholders_of_its_length(processor: MiniCPMVProcessor) -> None:
    inputs = encode(processor, [picture(300, 200), "a", picture(50, 60)])
    placeholder = processor.tokenizer.convert_tokens_to_ids("<unk>")
    positions = [start + offset for row, start in inputs["visual_slots"].tolist() for offset in range(4)]
    assert np.flatnonzero(inputs["input_ids"][0] == placeholder).tolist() == positions
    assert len(inputs["visual_slots"]) == inputs["item_packs"][-1] + 1
    shapes = inputs["item_shapes"]
    assert inputs["pixel_values"].shape == ((shapes[:, 0] * shapes[:, 1]).sum(), 588)


def test_a_parts_option_wins_over_the_calls_and_that_over_the_checkpoints(processor: MiniCPMVProcessor) -> None:
    large = picture(400, 400)
    assert images_in(encode(processor, [large])) == 10
    assert images_in(encode(processor, [large], max_slices=4)) == 5
    assert images_in(encode(processor, [{"type": "image", "image": large, "max_slices": 1}], max_slices=4)) == 1
    text = processor.decode(
        encode(processor, [{"type": "image", "image": large, "use_image_id": False}])["input_ids"][0]
    )
    assert "<image_id>" not in text


def test_a_clip_takes_three_frames_per_second_without_slices_or_numbers(
    processor: MiniCPMVProcessor, clip: Path
) -> None:
    inputs = encode(processor, [{"type": "video", "path": str(clip)}, "?"])
    assert images_in(inputs) == 6
    assert inputs["item_packs"].tolist() == [0, 1, 2, 3, 4, 5]
    assert inputs["item_times"].tolist() == [1, 5, 8, 11, 15, 18]
    assert "<image_id>" not in processor.decode(inputs["input_ids"][0])


def test_explicit_rate_and_packing_take_effect_on_a_short_clip(processor: MiniCPMVProcessor, clip: Path) -> None:
    inputs = encode(processor, [{"type": "video", "path": str(clip), "fps": 10, "packing": 6}, "?"])
    assert inputs["item_packs"].tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 2
    assert inputs["item_times"].tolist() == list(range(20))
    assert len(inputs["visual_slots"]) == 4
    assert images_in(encode(processor, [{"type": "video", "path": str(clip)}, "?"], max_frames=2)) == 2


def test_each_frame_of_a_clip_lands_in_its_own_rows(processor: MiniCPMVProcessor, clip: Path) -> None:
    inputs = encode(processor, [{"type": "video", "path": str(clip), "fps": 10, "packing": 3}])
    patches = int(np.prod(inputs["item_shapes"][0]))
    greys = inputs["pixel_values"].reshape(20, patches * 588).mean(1)
    assert np.allclose(greys, (10 + 12 * np.arange(20)) / 127.5 - 1, atol=0.03)


def test_clips_may_be_bytes_or_pictures(processor: MiniCPMVProcessor, clip: Path) -> None:
    from_file = encode(processor, [VideoPart(clip)])
    from_bytes = encode(processor, [{"type": "video", "bytes": clip.read_bytes()}])
    assert np.array_equal(from_file["pixel_values"], from_bytes["pixel_values"])
    frames = [picture(64, 48, seed) for seed in range(5)]
    timed = encode(processor, [{"type": "video", "frames": frames, "timestamps": [0, 0.1, 0.5, 4.3, 5], "packing": 2}])
    assert timed["item_times"].tolist() == [0, 1, 5, 42, 50]
    assert timed["item_packs"].tolist() == [0, 0, 1, 1, 2]
    assert encode(processor, [{"type": "video", "frames": frames}])["item_times"].tolist() == [-1] * 5
    assert encode(processor, [{"type": "video", "frames": frames, "fps": 5}])["item_times"].tolist() == [0, 2, 4, 6, 8]
    assert images_in(encode(processor, [{"type": "video", "frames": frames, "max_frames": 2}])) == 2


def test_frames_of_different_sizes_in_one_pack_take_the_grid_of_the_first(processor: MiniCPMVProcessor) -> None:
    frames = [picture(300, 150), picture(40, 40)]
    part = {"type": "video", "frames": frames, "temporal_ids": [[1, 2]], "max_slices": 2}
    inputs = encode(processor, [part])
    assert inputs["item_packs"].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(inputs["visual_slots"]) == 3


def test_pictures_of_a_clip_are_only_read_one_group_at_a_time(
    processor: MiniCPMVProcessor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import minicpmv.processing.video_processor as module

    alive: list[int] = []
    load, seen = module.load_image, []

    def counting(source: Any, **options: Any) -> Any:
        seen.append(source)
        return load(source, **options)

    monkeypatch.setattr(module, "load_image", counting)
    written: list[int] = []
    write = module.ItemRows.write

    def noting(self: Any, frame: int, image: Image.Image) -> None:
        written.append(frame)
        alive.append(len(seen) - len(written))
        write(self, frame, image)

    monkeypatch.setattr(module.ItemRows, "write", noting)
    picture(60, 40).save(tmp_path / "a.png")
    encode(processor, [{"type": "video", "frames": [str(tmp_path / "a.png")] * 8, "packing": 2}])
    assert written == list(range(8))
    assert max(alive) <= 1


def make_pdf(pages: int) -> bytes:
    document = pypdfium2.PdfDocument.new()
    for _ in range(pages):
        document.new_page(200, 100)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def test_each_page_of_a_document_is_a_numbered_picture(processor: MiniCPMVProcessor) -> None:
    pdf = make_pdf(3)
    whole = encode(processor, [DocumentPart(pdf, max_slices=1)])
    assert images_in(whole) == 3
    text = processor.decode(whole["input_ids"][0])
    assert [f"<image_id>{k}</image_id>" in text for k in range(4)] == [True, True, True, False]
    assert images_in(encode(processor, [DocumentPart(pdf, pages=(2,), max_slices=1)])) == 1
    assert images_in(encode(processor, [DocumentPart(pdf, pages=(1,))], dpi=30)) == 1


def test_pictures_are_numbered_over_the_whole_conversation_counting_frames(processor: MiniCPMVProcessor) -> None:
    clip = {"type": "video", "frames": [picture(30, 30)] * 4, "temporal_ids": [[0, 1], [2, 3]], "use_image_id": True}
    conversation = [
        {"role": "user", "content": [picture(30, 30), clip]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [picture(30, 30)]},
    ]
    text = processor.decode(processor.apply_chat_template(conversation, tokenize=True))
    numbers = [piece.split("</image_id>")[0] for piece in text.split("<image_id>")[1:]]
    assert numbers == ["0", "1", "3", "5"]


def test_labels_cover_the_answer_and_padding_may_be_on_the_right(processor: MiniCPMVProcessor) -> None:
    short = [{"role": "user", "content": [picture(30, 30), "q"]}, {"role": "assistant", "content": "the answer"}]
    long = [{"role": "user", "content": "the quick brown fox " * 20}, {"role": "assistant", "content": "fox"}]
    inputs = processor.apply_chat_template(
        [short, long], tokenize=True, return_dict=True, return_tensors="pt", return_labels=True, padding_side="right"
    )
    labels, ids = inputs["labels"], inputs["input_ids"]
    assert isinstance(labels, torch.Tensor)
    assert (labels[inputs["attention_mask"] == 0] == -100).all()
    answers = [processor.decode(ids[row][labels[row] != -100]) for row in range(2)]
    assert answers == [f"<think>\n\n</think>\n\n{text}<|im_end|>" for text in ("the answer", "fox")]
    assert inputs["attention_mask"][:, 0].tolist() == [1, 1]
    assert inputs["visual_slots"].tolist()[0][0] == 0


def test_an_overlong_prompt_is_refused_with_its_counts_and_never_cut(processor: MiniCPMVProcessor) -> None:
    with pytest.raises(ContextLengthError, match=r"at least 40 tokens for pictures; the limit is 30"):
        encode(processor, [picture(400, 400), "?"], max_length=30, truncation=True)


def test_a_string_has_placeholders_and_can_be_handed_back_with_its_media(
    processor: MiniCPMVProcessor, clip: Path
) -> None:
    photo = picture(300, 200)
    content = [{"type": "image", "image": photo}, {"type": "video", "path": str(clip)}, "What?"]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert "(<image>./</image>)\n(<video>./</video>)\nWhat?<|im_end|>" in text
    direct = encode(processor, content)
    again = processor(text=text, images=photo, videos=str(clip), return_tensors="np")
    assert set(again) == set(direct)
    for name, value in direct.items():
        assert np.array_equal(again[name], value), name


@pytest.mark.parametrize(
    ("text", "images", "match"),
    [
        ("(<image>./</image>) a", [], "1 image placeholder, but 0 images were given"),
        ("a", [picture(9, 9)], "0 image placeholders, but 1 image was given"),
        (["(<image>./</image>)", "b"], [[], [picture(9, 9)]], "Text 0 has 1 image placeholder, but 0 images"),
    ],
)
def test_media_that_do_not_fit_the_placeholders_are_refused_with_both_counts(
    processor: MiniCPMVProcessor, text: Any, images: Any, match: str
) -> None:
    with pytest.raises(MessageError, match=match):
        processor(text=text, images=images)


def test_visual_names_in_a_rendered_string_stay_text(processor: MiniCPMVProcessor) -> None:
    text = "<|im_start|>user\n(<image>./</image>) </image><slice><unk><|im_end|>\n"
    inputs = processor(text=text, images=[picture(30, 30)], return_tensors="np")
    ids = inputs["input_ids"][0].tolist()
    tokenizer = processor.tokenizer
    assert ids.count(tokenizer.convert_tokens_to_ids("</image>")) == 1
    assert ids.count(tokenizer.convert_tokens_to_ids("<unk>")) == 4
    assert ids.count(tokenizer.convert_tokens_to_ids("<slice>")) == 0
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_parts_without_a_source_take_the_media_given_beside_them(processor: MiniCPMVProcessor) -> None:
    photo = picture(80, 80)
    beside = encode(processor, [{"type": "image"}, "?"], images=[photo])
    inside = encode(processor, [photo, "?"])
    assert np.array_equal(beside["pixel_values"], inside["pixel_values"])
    with pytest.raises(MessageError, match="names no source"):
        encode(processor, [{"type": "image"}, "?"])
    with pytest.raises(MessageError, match="1 image placeholder, but 2 images were given"):
        encode(processor, [{"type": "image"}, "?"], images=[photo, photo])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_slces": 3}, "Did you mean max_slices"),
        ({"max_slices": 0}, "max_slices is 0"),
        ({"max_slices": "9"}, "max_slices is '9'"),
        ({"packing": 7}, "packing is 7"),
        ({"fps": 11}, "fps is 11"),
        ({"use_image_id": 1}, "use_image_id"),
        ({"padding_side": "top"}, "padding_side"),
        ({"return_tensors": "tf"}, "return_tensors"),
        ({"chat_template": "x"}, "chat_template"),
        ({"add_special_tokens": 3}, "add_special_tokens"),
    ],
)
def test_unknown_options_and_values_are_refused(
    processor: MiniCPMVProcessor, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(OptionError, match=match):
        encode(processor, [picture(20, 20), "?"], **options)


def test_a_strip_too_narrow_to_look_at_is_refused(processor: MiniCPMVProcessor) -> None:
    with pytest.raises(MediaError, match="1 x 20000"):
        encode(processor, [picture(1, 20000)])


def test_what_was_left_out_of_an_animation_is_said(
    processor: MiniCPMVProcessor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "two.gif"
    picture(30, 20).save(path, save_all=True, append_images=[picture(30, 20, 1)])
    encode(processor, [{"type": "image", "path": str(path)}])
    assert "frame" in caplog.text


def test_own_messages_and_lists_without_tensors_are_accepted(processor: MiniCPMVProcessor) -> None:
    message = Message("user", (ImagePart(picture(40, 40)), TextPart("?")))
    ids = processor.apply_chat_template([message], tokenize=True)
    assert isinstance(ids, list)
    assert isinstance(ids[0], int)
    batch = processor.apply_chat_template([[message], [message]], tokenize=True, return_dict=True)
    assert [row == ids for row in batch["input_ids"]] == [True, True]


def test_processor_settings_survive_saving(tmp_path: Path) -> None:
    processor = make_processor(slot_length=3, slice_mode=False)
    processor.video_processor = MiniCPMVVideoProcessor(choose_fps=2, use_image_id=True)
    processor.save_pretrained(tmp_path)
    again = MiniCPMVProcessor.from_pretrained(tmp_path)
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    assert again.video_processor.to_dict() == processor.video_processor.to_dict()
    assert again.tokenizer("the fox <image>").input_ids == processor.tokenizer("the fox <image>").input_ids
    part = {"type": "image", "image": picture(56, 30)}
    assert encode(again, [part])["item_shapes"].tolist() == [[2, 4]]
    MiniCPMVProcessor(tokenizer=make_tokenizer()).save_pretrained(tmp_path)
    assert not (tmp_path / "video_preprocessor_config.json").exists()


def test_the_image_processor_works_alone(processor: MiniCPMVProcessor) -> None:
    rows = processor.image_processor([picture(40, 40), picture(300, 100)], return_tensors="pt", max_slices=1)
    assert rows["item_packs"].tolist() == [0, 1]
    assert rows["pixel_values"].dtype == torch.float32
    with pytest.raises(MessageError, match="Unknown image options"):
        processor.image_processor(picture(9, 9), size=3)
