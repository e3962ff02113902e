"""Conversations from the worlds: a picture, a clip or a text, a question, and the answer to learn.

    world -> Exchange(pictures, question, answer) -> the same pieces and patches as at inference -> padded token batch

Everything the model sees passes through the functions of `minicpmv.processing` that answer a user's question, so
training and inference cannot render a conversation differently.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from minicpmv.data.worlds.clips import CLIP_TASKS, render_clip
from minicpmv.data.worlds.fonts import Face
from minicpmv.data.worlds.questions import READING, ask
from minicpmv.data.worlds.scenes import THING_TASKS, render_scene
from minicpmv.data.worlds.text import DESCRIBED_SCENES, LEARNED_SLOWLY, copy_pair, described_pair, text_pair
from minicpmv.errors import ShapeContractError
from minicpmv.messages import ImagePart, Message, TextPart, VideoPart
from minicpmv.processing.chat_template import TemplateOptions, VisualText, conversation_pieces, visual_pieces
from minicpmv.processing.packing import FrameGroup, order_items, plan_groups
from minicpmv.processing.patches import patchify_all
from minicpmv.processing.slicing import Size
from minicpmv.processing.text_encoding import EncodedPieces, PieceEncoder
from minicpmv.training.feeding import Share
from minicpmv.training.towers.learner import Learner
from minicpmv.training.towers.objectives import ALONE, FULL_SHARE, Batch, lettered_lines, split_counts, step_generator
from minicpmv.training.towers.patch_reading import PatchLabels, label_tensors, patch_reading_loss
from minicpmv.training.towers.reading_slots import doubted, slot_loss, slot_tensors
from minicpmv.training.towers.recipe import StageRecipe

STILL = ((-1,),)
"""Time ids of a picture: one pack of one frame without a time."""
REPEATED_LINES = 6
"""Most lines of a text that is to be repeated, in the world of several."""

_IGNORED = -100
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer.

    Attributes:
        world: where it comes from.
        frames: a picture, or the frames of a clip.
        times: official time ids, pack by pack; a picture is one pack with the id -1.
        prompt: the text after the picture.
        answer: what to say.
        labels: what is in the patches of all frames, where known.
        letters: int64 [queries, places] letters where each query looks, where known.
        is_symbolic: the model is given codes of `letters` instead of the picture.
        is_doubted: and these say what else a letter might be.
    """

    world: str
    frames: tuple[Picture, ...]
    times: tuple[tuple[int, ...], ...]
    prompt: str
    answer: str
    labels: PatchLabels | None = None
    letters: NDArray[np.int64] | None = None
    is_symbolic: bool = False
    is_doubted: bool = False


@dataclass(frozen=True, slots=True)
class AnswerQuestions:
    """Next-token loss on answers, optionally with the dense reading loss on pictures of text."""

    stage: StageRecipe
    seed: int
    index: int
    faces: Sequence[Face]
    encoder: PieceEncoder
    pad_id: int
    resolution: int
    share: Share = ALONE

    def batch(self, step: int) -> Batch:
        """A padded token batch with the ragged visual input."""
        generator = step_generator(self.seed, self.index, step, self.share)
        exchanges: list[Exchange] = []
        for world, count in split_counts(generator, self.stage.worlds, self.share.of(self.stage.batch)).items():
            exchanges += WORLDS[world](generator, self.faces, count, self.encoder.slot_length)
        return collate(exchanges, self.encoder, self.pad_id, self.resolution, generator)

    def loss(self, learner: Learner, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the answers, plus the weighted dense loss."""
        model = learner.model
        features: list[Tensor] = []
        dense: Tensor | float = 0.0
        extra: dict[str, float] = {}
        if "pixel_values" in batch:
            resampled, dense, extra = self._look(learner, batch)
            features.append(resampled)
        if "symbols" in batch:
            features.append(learner.slot_codes(batch["symbols"], batch["symbol_doubts"], batch["symbol_shares"]))
        output = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            visual_features=torch.cat([one.float() for one in features]) if features else None,
            visual_slots=batch.get("visual_slots"),
            use_cache=False,
        )
        loss, numbers = answer_loss(output.logits, batch["labels"], batch["worlds"])
        return loss + dense, {**numbers, **extra}

    def _look(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor | float, dict[str, float]]:
        """Resampled features of the pictures, with the weighted dense losses of the tower and of the resampler."""
        model = learner.model
        numbers: dict[str, float] = {}
        dense: Tensor | float = 0.0
        shapes = [tuple(shape) for shape in batch["item_shapes"].tolist()]
        patches = model.vpm(batch["pixel_values"], shapes)
        attention = model.config.vision_config._attn_implementation
        features = model.resampler(patches, shapes, batch["item_packs"].tolist(), batch["item_times"], attention)
        if self.stage.patch_loss and "labelled" in batch:
            loss, numbers = patch_reading_loss(learner.patch_reader, patches[batch["labelled"]], batch)
            dense = dense + self.stage.patch_loss * loss
        if self.stage.slot_loss and "letters" in batch:
            codes = learner.slot_codes.codes.weight
            loss, found = slot_loss(features[batch["lettered"]], codes, batch["letters"], batch["counted_letters"])
            dense = dense + self.stage.slot_loss * loss
            numbers = {**numbers, **found}
        return features, dense, numbers


def answer_loss(logits: Tensor, labels: Tensor, worlds: Sequence[str]) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy over target tokens, and for each world its own, with how many answers are right word for word.

    Args:
        logits: [batch, tokens, vocabulary].
        labels: int64 [batch, tokens], -100 where nothing is learned.
        worlds: the world of each sample.
    """
    wanted = labels[:, 1:]
    learned = wanted != _IGNORED
    predicted = logits[:, :-1].float()
    by_token = F.cross_entropy(predicted[learned], wanted[learned], reduction="none")
    loss = by_token.mean()
    right = ((predicted.argmax(-1) == wanted) | ~learned).all(-1)
    rows = learned.nonzero()[:, 0]
    numbers = {"answer_loss": loss.item()}
    for world in sorted(set(worlds)):
        chosen = torch.tensor([name == world for name in worlds], device=right.device)
        numbers[world] = right[chosen].float().mean().item()
        numbers[f"{world}_loss"] = by_token[chosen[rows]].mean().item()
    return loss, numbers


def encode_exchange(exchange: Exchange, groups: tuple[FrameGroup, ...], encoder: PieceEncoder) -> EncodedPieces:
    """Token ids of one exchange in the official layout."""
    is_clip = bool(exchange.times) and exchange.times != STILL
    parts: list[ImagePart | VideoPart | TextPart] = []
    if groups:
        parts.append(VideoPart(source=b"") if is_clip else ImagePart(None))
    messages = [
        Message("user", (*parts, TextPart(exchange.prompt))),
        Message("assistant", (TextPart(exchange.answer),)),
    ]
    options = TemplateOptions()
    media = [visual_pieces(VisualText(groups, use_image_id=not is_clip), 0, options.tokens)] if groups else []
    return encoder.encode(conversation_pieces(messages, media, options))


def collate(
    exchanges: Sequence[Exchange], encoder: PieceEncoder, pad_id: int, resolution: int, generator: Generator
) -> Batch:
    """Exchanges to one right-padded token batch and one ragged visual input."""
    encoded, pictures, packs, times = [], [], [], []
    slots: list[tuple[int, int]] = []
    symbolic_slots: list[tuple[int, int]] = []
    for row, exchange in enumerate(exchanges):
        sizes = [Size(frame.shape[1], frame.shape[0]) for frame in exchange.frames]
        groups: tuple[FrameGroup, ...] = ()
        if exchange.frames:
            groups = plan_groups(exchange.times, sizes, max_slices=1, resolution=resolution)
        if exchange.frames and not exchange.is_symbolic:
            for place in order_items(groups):
                pictures.append(fitted(exchange.frames[place.frame], place.size))
                packs.append(len(slots) + place.pack)
                times.append(place.time)
        pieces = encode_exchange(exchange, groups, encoder)
        (symbolic_slots if exchange.is_symbolic else slots).extend((row, start) for start in pieces.slots)
        encoded.append(pieces)
    batch = _padded(encoded, pad_id)
    batch["worlds"] = [exchange.world for exchange in exchanges]
    if pictures:
        rows, shapes = patchify_all(pictures)
        batch |= {
            "pixel_values": torch.from_numpy(rows),
            "item_shapes": torch.from_numpy(shapes),
            "item_packs": torch.tensor(packs),
            "item_times": torch.tensor(times),
        }
        batch |= _dense_targets(exchanges, shapes, generator)
    if slots or symbolic_slots:
        batch["visual_slots"] = torch.tensor(slots + symbolic_slots)
    symbols = [exchange.letters for exchange in exchanges if exchange.is_symbolic and exchange.letters is not None]
    if symbols:
        batch["symbols"] = torch.from_numpy(np.stack(symbols))
        batch |= _doubts_of(exchanges, generator)
    return batch


def _doubts_of(exchanges: Sequence[Exchange], generator: Generator) -> Batch:
    """What the letters of symbolic exchanges might be instead, and how far they are believed."""
    others, shares = [], []
    for exchange in exchanges:
        if exchange.is_symbolic and exchange.letters is not None:
            sure = exchange.letters, np.ones(exchange.letters.shape, dtype=np.float32)
            other, share = doubted(exchange.letters, generator) if exchange.is_doubted else sure
            others.append(other)
            shares.append(share)
    return {"symbol_doubts": torch.from_numpy(np.stack(others)), "symbol_shares": torch.from_numpy(np.stack(shares))}


def fitted(picture: Picture, size: Size) -> Picture:
    """The picture at the size that the encoder sees, resized as the processor does."""
    if picture.shape[:2] == (size.height, size.width):
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _padded(encoded: Sequence[EncodedPieces], pad_id: int) -> Batch:
    longest = max(len(pieces.ids) for pieces in encoded)
    ids = np.full((len(encoded), longest), pad_id, dtype=np.int64)
    labels = np.full_like(ids, _IGNORED)
    mask = np.zeros_like(ids)
    for row, pieces in enumerate(encoded):
        length = len(pieces.ids)
        ids[row, :length] = pieces.ids
        mask[row, :length] = 1
        labels[row, :length] = np.where(pieces.trained, pieces.ids, _IGNORED)
    tensors = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return {name: torch.from_numpy(array) for name, array in tensors.items()}


def _dense_targets(exchanges: Sequence[Exchange], shapes: NDArray[np.int64], generator: Generator) -> Batch:
    """What is known about the pictures: labels of patches, and letters in slots, with the rows they belong to."""
    starts = np.concatenate([[0], np.cumsum(shapes.prod(-1))])
    labelled, labels, lettered, letters = [], [], [], []
    item = pack = 0
    for exchange in exchanges:
        if exchange.is_symbolic:
            continue
        if exchange.labels is not None:
            rows = np.arange(starts[item], starts[item + len(exchange.frames)])
            if len(rows) != len(exchange.labels.things):
                raise ShapeContractError(
                    f"{exchange.world} has labels for {len(exchange.labels.things)} patches and {len(rows)} patches.",
                    remedy="Label the patches that the tower sees after resizing.",
                )
            labelled.append(rows)
            labels.append(exchange.labels)
        if exchange.letters is not None:
            lettered.append(pack)
            letters.append(exchange.letters)
        item += len(exchange.frames)
        pack += len(exchange.times)
    batch: Batch = {}
    if labels:
        batch = {"labelled": torch.from_numpy(np.concatenate(labelled)), **label_tensors(labels, generator)}
    if letters:
        batch |= slot_tensors(letters, lettered, generator)
    return batch


World = Callable[[Generator, Sequence[Face], int, int], list[Exchange]]
"""Draws exchanges: source of randomness, faces, how many, queries of the resampler."""


def lines_of(name: str, full: float, *, is_symbolic: bool, is_doubted: bool = False) -> World:
    """A world of printed lines, such a share of the pictures full of them, on a canvas drawn for the whole batch."""

    def draw(generator: Generator, faces: Sequence[Face], count: int, num_queries: int) -> list[Exchange]:
        return [
            Exchange(
                name, (line.image,), STILL, ask(generator, READING), line.text, labels, letters, is_symbolic, is_doubted
            )
            for line, labels, letters in lettered_lines(generator, faces, count, num_queries, full)
        ]

    return draw


def _scenes(generator: Generator, faces: Sequence[Face], count: int, num_queries: int) -> list[Exchange]:
    exchanges = []
    for _ in range(count):
        task = THING_TASKS[int(generator.integers(len(THING_TASKS)))]
        scene = render_scene(generator, task=task, faces=faces)
        labels = PatchLabels.of_things(scene.targets)
        exchanges.append(Exchange("scenes", (scene.image,), STILL, scene.question, scene.answer, labels))
    return exchanges


def _clips(generator: Generator, faces: Sequence[Face], count: int, num_queries: int) -> list[Exchange]:
    """Clips with questions of all kinds, at any pace from 1 to 10 frames a second, in one pack."""
    exchanges = []
    for _ in range(count):
        task = CLIP_TASKS[int(generator.integers(len(CLIP_TASKS)))]
        clip = render_clip(generator, task=task, faces=faces)
        pace = generator.uniform(1.0, 10.0)
        start = generator.uniform(0.0, pace)
        codes = [int(start + index * pace) for index in range(len(clip.frames))]
        labels = PatchLabels.of_things(clip.targets.reshape(-1, 2))
        exchanges.append(Exchange("clips", tuple(clip.frames), (tuple(codes),), clip.question, clip.answer, labels))
    return exchanges


def _copies(generator: Generator, faces: Sequence[Face], count: int, num_queries: int) -> list[Exchange]:
    pairs = [copy_pair(generator) for _ in range(count)]
    return [Exchange("copies", (), (), pair.prompt, pair.answer) for pair in pairs]


def _texts(generator: Generator, faces: Sequence[Face], count: int, num_queries: int) -> list[Exchange]:
    pairs = [text_pair(generator) for _ in range(count)]
    return [Exchange("texts", (), (), pair.prompt, pair.answer) for pair in pairs]


def _repeat(generator: Generator, faces: Sequence[Face], count: int, num_queries: int) -> list[Exchange]:
    pairs = [text_pair(generator, most_lines=REPEATED_LINES) for _ in range(count)]
    return [Exchange("repeat", (), (), pair.prompt, pair.answer) for pair in pairs]


def _described(generator: Generator, faces: Sequence[Face], count: int, num_queries: int) -> list[Exchange]:
    slow_clips, slow_scenes = LEARNED_SLOWLY
    clips, scenes = (*CLIP_TASKS, *slow_clips), (*DESCRIBED_SCENES, *slow_scenes)
    pairs = [described_pair(generator, clips=clips, scenes=scenes) for _ in range(count)]
    return [Exchange("described", (), (), pair.prompt, pair.answer) for pair in pairs]


WORLDS: Mapping[str, World] = {
    "lines": lines_of("lines", 0.0, is_symbolic=False),
    "paragraphs": lines_of("paragraphs", FULL_SHARE, is_symbolic=False),
    "slots": lines_of("slots", FULL_SHARE, is_symbolic=True),
    "doubts": lines_of("doubts", FULL_SHARE, is_symbolic=True, is_doubted=True),
    "scenes": _scenes,
    "clips": _clips,
    "copies": _copies,
    "texts": _texts,
    "repeat": _repeat,
    "described": _described,
}
"""Sources of exchanges by the name that recipes use."""
