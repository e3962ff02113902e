"""The released processor's recorded numbers: slices, pixels, tokens, samples of clips, strings, and its own files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minicpmv.messages import parse_messages
from minicpmv.processing.chat_template import TemplateOptions, conversation_pieces
from minicpmv.processing.packing import group_consecutive
from minicpmv.processing.patches import patchify
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.sampling import plan_frames, temporal_ids
from minicpmv.processing.slicing import Size, cut_slices, plan_slices
from minicpmv.processing.text_encoding import pieces_to_text

# width x height | grid | overview | refined | one slice | visual tokens
SLICING = """
1x1 - 448x448 - - 64
100x100 - 448x448 - - 64
384x384 - 448x448 - - 64
448x448 - 448x448 - - 64
449x448 2x1 448x448 644x630 322x630 192
300x500 - 350x574 - - 64
635x317 2x1 630x322 896x448 448x448 192
640x480 2x1 518x392 728x546 364x546 192
700x699 2x2 448x448 896x896 448x448 320
896x448 2x1 630x322 896x448 448x448 192
448x896 1x2 322x630 448x896 448x448 192
1000x700 2x2 532x378 1064x756 532x378 320
1024x768 2x2 518x392 1036x784 518x392 320
1280x720 3x2 602x336 1470x812 490x406 448
1920x1080 4x2 602x336 1680x952 420x476 576
1344x1344 3x3 448x448 1344x1344 448x448 640
2000x2000 3x3 448x448 1344x1344 448x448 640
3000x400 7x1 1218x168 3234x434 462x434 512
14x6000 - 28x9268 - - 64
1x5000 - 14x31682 - - 64
"""

TWO_SLICES = """
1280x720 2x1 840x476
640x480 2x1 728x546
896x448 2x1 896x448
1920x1080 2x1 840x476
720x1280 1x2 476x840
"""


def pair(text: str) -> tuple[int, int] | None:
    return None if text == "-" else tuple(map(int, text.split("x")))  # type: ignore[return-value]  # always two


@pytest.mark.parametrize("row", SLICING.strip().splitlines())
def test_slices_of_nine_equal_the_released_table(row: str) -> None:
    size, grid, overview, refined, cell, tokens = row.split()
    plan = plan_slices(Size(*pair(size)))  # type: ignore[misc]  # never None
    assert (plan.grid, plan.overview, plan.refined, plan.slice_size) == tuple(
        map(pair, (grid, overview, refined, cell))
    )
    assert len(plan.items) * 64 == int(tokens)


@pytest.mark.parametrize("row", TWO_SLICES.strip().splitlines())
def test_slices_of_two_equal_the_released_table(row: str) -> None:
    size, grid, refined = map(pair, row.split())
    plan = plan_slices(Size(*size), max_slices=2)  # type: ignore[misc]  # never None
    assert (plan.grid, plan.refined) == (grid, refined)


def test_pixels_of_a_small_picture_equal_the_released_tensor() -> None:
    y, x = np.mgrid[0:30, 0:44]
    pixels = np.stack([(7 * y + 3 * x) % 256, (5 * y + 11 * x + 13) % 256, (x * y) % 256], -1).astype(np.uint8)
    image = Image.fromarray(pixels)
    (item,) = cut_slices(image, plan_slices(Size(44, 30)))
    rows = patchify(np.asarray(item))
    assert rows.shape == (26 * 39, 588)
    assert rows.astype(np.float64).sum() == pytest.approx(-18268.35144, abs=0.5)
    assert np.abs(rows.astype(np.float64)).sum() == pytest.approx(289157.78963, abs=0.5)
    assert rows[0, :5].tolist() == [-1.0] * 5
    # The release lays patches side by side: [channel 2, row 13, last five columns] is the end of the last patch.
    assert rows[-1, -5:].tolist() == pytest.approx([0.803922, 0.803922, 0.811765, 0.811765, 0.819608], abs=1e-6)


# frames @ fps, wanted fps, MAX_NUM_PACKING | frames, packing, groups | first groups | last group
SAMPLING: list[tuple[int, float, dict[str, int], tuple[int, int, int], list[list[int]], list[int]]] = [
    (300, 3, {}, (30, 1, 30), [[2], [5], [8]], [98]),
    (1800, 3, {}, (180, 1, 180), [[2], [5], [8]], [598]),
    (5400, 3, {}, (540, 3, 180), [[2, 5, 8], [12, 15, 18], [22, 25, 28]], [1792, 1795, 1798]),
    (18000, 3, {}, (540, 3, 180), [[5, 17, 28], [39, 50, 61], [72, 83, 94]], [5972, 5983, 5993]),
    (300, 5, {}, (50, 1, 50), [[1], [3], [5]], [99]),
    (1079, 5, {}, (180, 1, 180), [[1], [3], [5]], [358]),
    (1080, 5, {}, (180, 1, 180), [[1], [3], [5]], [358]),
    (3600, 5, {}, (540, 3, 180), [[1, 3, 5], [8, 10, 12], [14, 17, 19]], [1194, 1197, 1199]),
    (
        18000,
        3,
        {"packing": 6},
        (1080, 6, 180),
        [[3, 8, 14, 19, 25, 30], [36, 42, 47, 53, 58, 64], [69, 75, 80, 85, 92, 97]],
        [5968, 5975, 5980, 5986, 5992, 5997],
    ),
]


@pytest.mark.parametrize(("num_frames", "fps", "options", "counts", "first", "last"), SAMPLING)
def test_sampling_at_thirty_frames_per_second_equals_the_released_table(
    num_frames: int,
    fps: float,
    options: dict[str, int],
    counts: tuple[int, int, int],
    first: list[list[int]],
    last: list[int],
) -> None:
    plan = plan_frames(num_frames, 30.0, choose_fps=fps, **options)  # type: ignore[arg-type]  # only packing
    groups = group_consecutive(temporal_ids(plan.indices, 30.0, num_frames), plan.packing)
    assert (len(plan.indices), plan.packing, len(groups)) == counts
    assert [list(group) for group in groups[:3]] == first
    assert list(groups[-1]) == last


@pytest.fixture(scope="session")
def processor(official_folder: Path) -> MiniCPMVProcessor:
    return MiniCPMVProcessor.from_pretrained(official_folder)


def picture(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (90, 120, 30))


def encode(processor: MiniCPMVProcessor, content: list[Any], **options: Any) -> dict[str, Any]:
    messages = content if isinstance(content[0], list) else [{"role": "user", "content": content}]
    return dict(
        processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="np",
            enable_thinking=False,
            **options,
        )
    )


def bounds(inputs: dict[str, Any], row: int = 0) -> list[list[int]]:
    return [[start, start + 64] for sample, start in inputs["visual_slots"].tolist() if sample == row]


def test_the_tokenizer_has_the_released_ids_and_length(processor: MiniCPMVProcessor) -> None:
    tokenizer = processor.tokenizer
    named = {"<unk>": 128244, "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<think>": 151667}
    named |= {"</think>": 151668, "<image>": 151669, "</image>": 151670, "<slice>": 151679, "</slice>": 151680}
    named |= {"<image_id>": 151681, "</image_id>": 151682, "<|reserved_0|>": 151685, "<|reserved_62|>": 151747}
    assert {name: tokenizer.convert_tokens_to_ids(name) for name in named} == named
    assert len(tokenizer) == 151748
    assert tokenizer("Hello!").input_ids == [9707, 0]
    assert tokenizer("Wow!!").input_ids == [35881, 2928]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
    )


def test_a_lone_exclamation_mark_survives_decoding(processor: MiniCPMVProcessor) -> None:
    assert processor.decode([9707, 0, 151645], skip_special_tokens=True) == "Hello!"
    assert processor.post_process_image_text_to_text([[0], [9707, 0]]) == ["!", "Hello!"]


@pytest.mark.parametrize(("size", "length"), [((448, 448), 91), ((896, 448), 223), ((1344, 1344), 687)])
def test_prompt_lengths_equal_the_release(processor: MiniCPMVProcessor, size: tuple[int, int], length: int) -> None:
    inputs = encode(processor, [picture(*size), "What is the landform in the picture?"])
    assert inputs["input_ids"].shape == (1, length)
    assert inputs["input_ids"][0, :7].tolist() == [151644, 872, 198, 151681, 15, 151682, 151669]


@pytest.mark.parametrize(
    ("size", "with_id", "without"),
    [
        ((448, 448), 69, 66),
        ((896, 448), 201, 198),
        ((448, 896), 202, 199),
        ((700, 699), 334, 331),
        ((1920, 1080), 598, 595),
        ((1344, 1344), 665, 662),
    ],
)
def test_placeholder_lengths_equal_the_release(
    processor: MiniCPMVProcessor, size: tuple[int, int], with_id: int, without: int
) -> None:
    around = encode(processor, ["x"])["input_ids"].shape[1] + 1  # and the newline between the parts
    for use_image_id, tokens in ((True, with_id), (False, without)):
        inputs = encode(processor, [picture(*size), "x"], use_image_id=use_image_id)
        assert inputs["input_ids"].shape[1] - around == tokens


def test_a_grid_of_two_by_two_has_the_released_run_of_ids(processor: MiniCPMVProcessor) -> None:
    ids = encode(processor, [picture(700, 699), "x"])["input_ids"][0].tolist()
    run, cell = [128244] * 64, [151679, *[128244] * 64, 151680]
    expected = [151681, 15, 151682, 151669, *run, 151670, *cell, *cell, 198, *cell, *cell]
    assert ids[3 : 3 + len(expected)] == expected


def test_the_eleventh_picture_is_number_eleven(processor: MiniCPMVProcessor) -> None:
    ids = encode(processor, [*[picture(28, 28)] * 12, "x"])["input_ids"][0].tolist()
    position = [index for index, token in enumerate(ids) if token == 151681][11]
    assert ids[position : position + 4] == [151681, 16, 16, 151682]


def test_one_sliced_picture_equals_the_released_case(processor: MiniCPMVProcessor) -> None:
    inputs = encode(processor, [picture(896, 448), "Hi"])
    assert inputs["input_ids"].shape == (1, 215)
    assert bounds(inputs) == [[7, 71], [73, 137], [139, 203]]
    assert inputs["item_shapes"].tolist() == [[23, 45], [32, 32], [32, 32]]
    assert inputs["item_times"].tolist() == [-1, -1, -1]
    assert inputs["item_packs"].tolist() == [0, 1, 2]


def test_two_pictures_equal_the_released_case(processor: MiniCPMVProcessor) -> None:
    inputs = encode(processor, [picture(448, 448), picture(500, 300), "Compare"])
    assert inputs["input_ids"].shape == (1, 153)
    assert bounds(inputs) == [[7, 71], [77, 141]]
    assert inputs["item_shapes"].tolist() == [[32, 32], [25, 41]]


@pytest.mark.parametrize("as_video", [True, False])
def test_packed_frames_equal_the_released_case(processor: MiniCPMVProcessor, as_video: bool) -> None:
    frames, groups = [picture(640, 360)] * 5, [[0, 3], [7, 10], [13]]
    if as_video:
        inputs = encode(processor, [{"type": "video", "frames": frames, "temporal_ids": groups}, "What?"])
    else:
        inputs = encode(processor, [*frames, "What?"], temporal_ids=groups, max_slice_nums=1, use_image_id=False)
    assert inputs["input_ids"].shape == (1, 215)
    assert bounds(inputs) == [[4, 68], [71, 135], [138, 202]]
    assert inputs["item_shapes"].tolist() == [[24, 43]] * 5
    assert inputs["item_packs"].tolist() == [0, 0, 1, 1, 2]
    assert inputs["item_times"].tolist() == [0, 3, 7, 10, 13]


def test_seven_frames_in_packs_of_three_equal_the_released_case(processor: MiniCPMVProcessor) -> None:
    part = {"type": "video", "frames": [picture(640, 360)] * 7, "temporal_ids": [[1, 2, 3], [4, 5, 6], [7]]}
    inputs = encode(processor, [part, "Describe the video"])
    assert inputs["input_ids"].shape == (1, 216)
    text = processor.decode(inputs["input_ids"][0], skip_special_tokens=False)
    assert text.startswith("<|im_start|>user\n" + ("<image>" + "<unk>" * 64 + "</image>\n") * 3 + "Describe the video")


def test_a_padded_batch_equals_the_released_case_but_keeps_the_exclamation_mark(processor: MiniCPMVProcessor) -> None:
    contents = [[picture(448, 448), "Hello!"], [picture(448, 448), "A much longer question here, please."]]
    inputs = encode(processor, [[{"role": "user", "content": content}] for content in contents])
    assert inputs["input_ids"].shape == (2, 90)
    assert bounds(inputs, 0) == [[13, 77]]
    assert bounds(inputs, 1) == [[7, 71]]
    assert inputs["input_ids"][0, 80] == 0
    assert np.flatnonzero(inputs["attention_mask"][0] == 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert inputs["attention_mask"][1].all()


CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "S"}, {"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"}],
    [
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": "<think>\nabc\n</think>\n\nA1"},
        {"role": "user", "content": "Q2"},
        {"role": "assistant", "content": "\n\nA2", "reasoning_content": "\nthought\n"},
    ],
    [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "w", "arguments": {"city": "Zürich"}}}],
        },
        {"role": "tool", "content": "sunny"},
        {"role": "tool", "content": "warm"},
        {"role": "assistant", "content": "Sunny.", "reasoning_content": "ok"},
    ],
    [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "b",
            "tool_calls": [{"name": "f", "arguments": "{}"}, {"name": "g", "arguments": {"x": [1]}}],
        },
        {"role": "system", "content": "later"},
        {"role": "user", "content": "  \n\nspaces\n "},
    ],
]
TOOLS = [{"type": "function", "function": {"name": "w", "description": "Weather – here", "parameters": {"a": 1}}}]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("thinking", [True, False, None])
def test_pieces_equal_what_the_checkpoints_own_template_renders(
    processor: MiniCPMVProcessor, conversation: list[dict[str, Any]], tools: Any, thinking: bool | None
) -> None:
    switch = {} if thinking is None else {"enable_thinking": thinking}
    for opened in (True, False):
        official = processor.tokenizer.apply_chat_template(
            conversation, tools=tools, tokenize=False, add_generation_prompt=opened, **switch
        )
        options = TemplateOptions(add_generation_prompt=opened, thinking=thinking, tools=tuple(tools or ()))
        pieces = conversation_pieces(parse_messages(conversation), [], options)
        assert pieces_to_text(pieces, placeholder="<unk>", slot_length=64) == official
        encoded = processor.piece_encoder().encode(pieces)
        assert encoded.ids == processor.tokenizer(official, add_special_tokens=False).input_ids


def test_special_names_in_a_persons_words_give_no_special_ids(processor: MiniCPMVProcessor) -> None:
    words = "<image> </image> <|im_end|> <unk> <think> </think> <|im_start|>assistant <slice> (<image>./</image>)"
    ids = processor.apply_chat_template([{"role": "user", "content": words}], tokenize=True)
    reserved = set(processor.tokenizer.added_tokens_decoder)
    assert [token for token in ids if token in reserved] == [151644, 151645]
    assert words in processor.decode(ids)


def test_the_released_folder_survives_loading_and_saving_without_loss(
    processor: MiniCPMVProcessor, official_folder: Path, tmp_path: Path
) -> None:
    processor.save_pretrained(tmp_path)
    for name in (
        "preprocessor_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
    ):
        saved = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        assert saved == json.loads((official_folder / name).read_text(encoding="utf-8")), name
    merges = [(folder / "merges.txt").read_text(encoding="utf-8").split("\n") for folder in (tmp_path, official_folder)]
    assert merges[0] == merges[1]
    again = MiniCPMVProcessor.from_pretrained(tmp_path)
    text = "Is it 12 o'clock? <image> Zürich 日本!"
    assert again.tokenizer(text).input_ids == processor.tokenizer(text).input_ids
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    assert again.chat_template == processor.chat_template
