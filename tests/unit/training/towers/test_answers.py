"""What a model trains on is what it will be asked: the same ids, slots and patches as the processor's."""

import numpy as np
import pytest
import torch
from PIL import Image

from minicpmv.data.worlds.fonts import find_faces
from minicpmv.errors import ShapeContractError
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text_encoding import PieceEncoder
from minicpmv.processing.tokenizer import MiniCPMVTokenizerFast
from minicpmv.training.towers.answers import STILL, WORLDS, Exchange, answer_loss, collate
from minicpmv.training.towers.objectives import split_counts, step_generator
from minicpmv.training.towers.patch_reading import BLANKS_KEPT, UNKNOWN, PatchLabels, counted_slots
from minicpmv.training.towers.tokenizer import PLACEHOLDER, train_tokenizer

RESOLUTION = 112


@pytest.fixture(scope="module")
def tokenizer() -> MiniCPMVTokenizerFast:
    return train_tokenizer(["What does the text say?", "Which colour appears first?"], 400)


@pytest.fixture(scope="module")
def encoder(tokenizer: MiniCPMVTokenizerFast) -> PieceEncoder:
    return PieceEncoder(tokenizer, placeholder=PLACEHOLDER, slot_length=64)


@pytest.fixture(scope="module")
def exchanges() -> list[Exchange]:
    """One exchange of every world."""
    generator = np.random.default_rng(5)
    faces = find_faces("train", system=False)
    return [WORLDS[world](generator, faces, 1, 64)[0] for world in sorted(WORLDS)]


def test_the_batch_equals_what_the_processor_makes_of_the_same_conversations(
    exchanges: list[Exchange], encoder: PieceEncoder, tokenizer: MiniCPMVTokenizerFast
) -> None:
    batch = collate(exchanges, encoder, 0, RESOLUTION, np.random.default_rng(0))
    processor = MiniCPMVProcessor(MiniCPMVImageProcessor(scale_resolution=RESOLUTION), tokenizer)
    first_patch = 0
    for row, exchange in enumerate(exchanges):
        content: list[dict[str, object]] = [{"type": "text", "text": exchange.prompt}]
        pictures = [Image.fromarray(frame) for frame in exchange.frames]
        if exchange.times == STILL:
            content.insert(0, {"type": "image", "image": pictures[0], "max_slices": 1})
        elif pictures:
            content.insert(0, {"type": "video", "frames": pictures, "temporal_ids": exchange.times})
        conversation = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": exchange.answer},
        ]
        asked = processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
        length = int(batch["attention_mask"][row].sum())
        assert torch.equal(batch["input_ids"][row, :length], asked["input_ids"][0]), exchange.world
        if pictures and not exchange.is_symbolic:
            patches = asked["pixel_values"].shape[0]
            assert torch.equal(batch["pixel_values"][first_patch : first_patch + patches], asked["pixel_values"])
            first_patch += patches
    assert first_patch == batch["pixel_values"].shape[0]


def test_labels_cover_the_answer_and_its_end_and_nothing_else(
    exchanges: list[Exchange], encoder: PieceEncoder, tokenizer: MiniCPMVTokenizerFast
) -> None:
    batch = collate(exchanges, encoder, 0, RESOLUTION, np.random.default_rng(0))
    for row, exchange in enumerate(exchanges):
        learned = batch["labels"][row][batch["labels"][row] != -100]
        assert tokenizer.decode(learned) == f"<think>\n\n</think>\n\n{exchange.answer}<|im_end|>"


def test_slots_are_runs_of_placeholders(exchanges: list[Exchange], encoder: PieceEncoder) -> None:
    batch = collate(exchanges, encoder, 0, RESOLUTION, np.random.default_rng(0))
    placeholder = encoder.id_of(PLACEHOLDER)
    for row, start in batch["visual_slots"].tolist():
        assert (batch["input_ids"][row, start : start + 64] == placeholder).all()
    assert int((batch["input_ids"] == placeholder).sum()) == 64 * len(batch["visual_slots"])


def test_dense_labels_belong_to_the_patches_of_their_pictures(exchanges: list[Exchange], encoder: PieceEncoder) -> None:
    batch = collate(exchanges, encoder, 0, RESOLUTION, np.random.default_rng(0))
    areas = batch["item_shapes"].prod(-1)
    owner = torch.repeat_interleave(torch.arange(len(areas)), areas)
    seen = [exchange for exchange in exchanges if not exchange.is_symbolic]
    first_item = {exchange.world: sum(len(e.frames) for e in seen[:place]) for place, exchange in enumerate(seen)}
    labelled = {first_item[e.world] + frame for e in seen if e.labels is not None for frame in range(len(e.frames))}
    assert set(owner[batch["labelled"]].tolist()) == labelled
    for exchange in seen:
        if exchange.labels is None:
            continue
        first = first_item[exchange.world]
        rows = torch.isin(owner[batch["labelled"]], torch.arange(first, first + len(exchange.frames)))
        for name, wanted in (("letter_targets", exchange.labels.letters), ("thing_targets", exchange.labels.things)):
            given = batch[name][rows].numpy()
            assert np.array_equal(given[wanted > 0], wanted[wanted > 0]), name
            assert set(np.unique(given[wanted <= 0])) <= {0, UNKNOWN}, name


def test_labels_for_other_patches_are_refused(encoder: PieceEncoder) -> None:
    frame = np.zeros((112, 112, 3), np.uint8)
    labels = PatchLabels.of_things(np.zeros((63, 2), np.int64))
    exchange = Exchange("scenes", (frame,), STILL, "What?", "Nothing.", labels)
    with pytest.raises(ShapeContractError, match="63 patches and 64"):
        collate([exchange], encoder, 0, RESOLUTION, np.random.default_rng(0))


def test_only_what_is_doubted_has_doubts(exchanges: list[Exchange], encoder: PieceEncoder) -> None:
    batch = collate(exchanges, encoder, 0, RESOLUTION, np.random.default_rng(0))
    symbolic = [exchange for exchange in exchanges if exchange.is_symbolic]
    assert {exchange.world for exchange in symbolic} == {"slots", "doubts"}
    drawn = [collate(symbolic, encoder, 0, RESOLUTION, np.random.default_rng(seed)) for seed in range(5)]
    for row, exchange in enumerate(symbolic):
        assert np.array_equal(batch["symbols"][row], exchange.letters)
        sure = [(one["symbol_shares"][row] == 1).all().item() for one in drawn]
        assert all(sure) != exchange.is_doubted, exchange.world


def test_letters_in_slots_belong_to_the_packs_of_their_lines(exchanges: list[Exchange], encoder: PieceEncoder) -> None:
    batch = collate(exchanges, encoder, 0, RESOLUTION, np.random.default_rng(0))
    seen = [exchange for exchange in exchanges if not exchange.is_symbolic]
    places = [place for place, exchange in enumerate(seen) if exchange.world in ("lines", "paragraphs")]
    assert batch["lettered"].tolist() == [sum(len(e.times) for e in seen[:place]) for place in places]
    assert all(np.array_equal(one, seen[place].letters) for one, place in zip(batch["letters"], places, strict=True))


def test_answer_loss_counts_only_labels_and_whole_answers() -> None:
    logits = torch.full((2, 3, 4), -10.0)
    labels = torch.tensor([[-100, 1, 2], [-100, -100, 3]])
    logits[0, 0, 1] = logits[0, 1, 2] = logits[1, 1, 0] = 10.0
    loss, numbers = answer_loss(logits, labels, ["a", "b"])
    assert numbers["a"] == 1.0
    assert numbers["b"] == 0.0
    assert loss.item() == pytest.approx(20.0 / 3, rel=1e-4)
    assert numbers["a_loss"] == pytest.approx(0, abs=1e-4)
    assert numbers["b_loss"] == pytest.approx(20.0, rel=1e-4)


def test_batches_depend_on_seed_stage_and_step_only() -> None:
    assert step_generator(1, 2, 3).random() == step_generator(1, 2, 3).random()
    assert len({step_generator(*key).random() for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)]}) == 4


def test_worlds_share_a_batch_by_weight() -> None:
    counts = [split_counts(step_generator(0, 0, step), {"a": 3.0, "b": 1.0}, 40) for step in range(50)]
    assert all(sum(count.values()) == 40 for count in counts)
    assert sum(count["a"] for count in counts) / 2000 == pytest.approx(0.75, abs=0.03)


def test_all_letters_and_few_blanks_count() -> None:
    targets = np.array([[0, 5, 0]] * 4000)
    counted = counted_slots(np.random.default_rng(0), targets)
    assert counted[:, 1].all()
    assert counted[:, [0, 2]].mean() == pytest.approx(BLANKS_KEPT, abs=0.01)
