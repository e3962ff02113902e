"""A checkpoint as the two GGUF files that llama.cpp and what is built on it (Ollama, LM Studio, ...) read.

    checkpoint -> language model as architecture `qwen3`            -> NAME-TYPE.gguf
               -> tower, resampler and their positions as `clip`    -> NAME-mmproj-f16.gguf

Tensors are read, converted and written one at a time, so 8.7 billion parameters need the memory of the largest one.

llama.cpp has no third dimension in its resampler and asks about pictures only: exported, a model reads clips frame by
frame at best. It also cuts large pictures by rules of its own, so only a picture that needs no cutting looks the same.

Source: names and keys as llama.cpp's readers expect them; the conversion is checked against the real llama.cpp in
tests/invariants/test_gguf.py.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from minicpmv.errors import CheckpointError, MiniCPMVError, OptionError
from minicpmv.generation.loading import explained, find_checkpoint, read_config, read_processor
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.positions import sinusoid_2d

if TYPE_CHECKING:
    import gguf

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
"""Number formats of the language model's matrices."""

CLIP_VERSION = 6
"""llama.cpp's number for MiniCPM-V 4.5 among the members of the family."""

PLACE_SIDE = 70
"""Rows and columns of the table of places that llama.cpp adds to the resampler's keys."""

_GROUP = 32
"""Weights that share a scale in q8_0 and q4_0; a matrix of another width stays in f16."""

_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    # Swapped in the files of this family from the beginning; llama.cpp expects them so.
    "mlp.fc1": "ffn_down",
    "mlp.fc2": "ffn_up",
}
_TEXT = {"llm.model.embed_tokens": "token_embd", "llm.model.norm": "output_norm", "llm.lm_head": "output"}
_VISION = {
    "vpm.embeddings.patch_embedding": "v.patch_embd",
    "vpm.embeddings.position_embedding": "v.position_embd",
    "vpm.post_layernorm": "v.post_ln",
    "resampler.kv_proj": "resampler.kv",
    "resampler.attn.out_proj": "resampler.attn.out",
    "resampler.ln_q": "resampler.ln_q",
    "resampler.ln_kv": "resampler.ln_kv",
    "resampler.ln_post": "resampler.ln_post",
}


class ExportError(MiniCPMVError, OSError):
    """A file could not be written; an older one of its name is intact."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of a file, not read yet.

    Attributes:
        name: in the file.
        kind: its number format, a name of `gguf.GGMLQuantizationType`.
        shape: of its numbers, outermost first.
        read: brings it into memory, in this or another shape.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def export_gguf(
    model: str | Path | None, folder: Path, kind: str = "q8_0", *, told: Callable[[int], None] = lambda _: None
) -> tuple[Path, Path]:
    """Write both files.

    Args:
        model: a folder, a hub id, or `nano` or None for the bundled model.
        folder: where to; made if absent. Files of the same names are replaced once the new ones are whole.
        kind: number format of the language model's matrices, one of `TYPES`. Tower and resampler are always written in
            f16: they are a twentieth of the weights, and reading suffers first.
        told: called with the number of bytes after every tensor.

    Returns:
        The language model's file and the picture encoder's.

    Raises:
        OptionError: an unknown format, `gguf` is not installed, or the checkpoint is a MiniCPM-V 4.0.
        CheckpointError: the checkpoint is missing, damaged or incomplete.
        ExportError: a file could not be written.
    """
    require_gguf()
    if kind not in TYPES:
        raise OptionError(f"GGUF files of type {kind!r} are not written.", remedy=f"Choose one of {', '.join(TYPES)}.")
    source = find_checkpoint(model)
    config = read_config(source)
    if config.text_config.model_type != "qwen3":
        raise OptionError(
            "Only MiniCPM-V 4.5 and models of its architecture are exported to GGUF.",
            remedy="4.0 needs rope factors that the format has no place for.",
        )
    processor = read_processor(source)
    folder.mkdir(parents=True, exist_ok=True)
    name = Path(source).resolve().name  # of the folder, also where it is called "."
    with explained(source), ExitStack() as files:
        weights = _open_weights(Path(source), files)
        text = folder / f"{name}-{kind}.gguf"
        _write(text, "qwen3", _text_keys(config, processor, kind, name), text_pieces(config, weights, kind), told)
        vision = folder / f"{name}-mmproj-f16.gguf"
        _write(vision, "clip", _vision_keys(config, processor, name), vision_pieces(config, weights), told)
    return text, vision


def require_gguf() -> None:
    """Say what is missing.

    Raises:
        OptionError: the `gguf` package.
    """
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise OptionError(
            "Writing GGUF needs the package gguf, which is not installed.",
            remedy="Install it: pip install 'minicpmv[export]'",
        ) from None


@dataclass(frozen=True, slots=True)
class Weights:
    """Every tensor of a checkpoint, not read yet.

    Attributes:
        readers: the open file that holds each of them.
        shapes: of each of them.
    """

    readers: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    def reader(self, name: str) -> Callable[[], Tensor]:
        """What brings one tensor into memory.

        Raises:
            CheckpointError: there is none of this name.
        """
        if name not in self.readers:
            raise CheckpointError(f"The checkpoint has no tensor {name}.", remedy="Download or copy it again.")
        held: Any = self.readers[name]
        return lambda: held.get_tensor(name)


def _open_weights(source: Path, files: ExitStack) -> Weights:
    if not source.is_dir():
        from huggingface_hub import snapshot_download

        source = Path(snapshot_download(str(source), allow_patterns=["*.safetensors", "*.json"]))
    paths = sorted(source.glob("*.safetensors"))
    if not paths:
        raise CheckpointError(f"There are no safetensors files in '{source}'.", remedy="Save the model as safetensors.")
    readers: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        reader: Any = files.enter_context(safe_open(path, framework="pt"))
        for name in reader.keys():  # noqa: SIM118  (not a mapping)
            readers[name], shapes[name] = reader, tuple(reader.get_slice(name).get_shape())
    return Weights(readers, shapes)


def text_pieces(config: MiniCPMVConfig, weights: Weights, kind: str) -> Iterator[Piece]:
    """The language model's tensors under their names in a GGUF file."""
    names = dict(_TEXT)
    for layer in range(config.text_config.num_hidden_layers):
        names |= {f"llm.model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in _LAYER.items()}
    for ours, theirs in names.items():
        if theirs == "output" and config.text_config.tie_word_embeddings:
            continue
        read = weights.reader(f"{ours}.weight")
        shape = weights.shapes[f"{ours}.weight"]
        yield Piece(f"{theirs}.weight", _kind_of(shape, kind), shape, read)


def vision_pieces(config: MiniCPMVConfig, weights: Weights) -> Iterator[Piece]:
    """Tensors of tower and resampler; the fused projection of the resampler is cut, its table of places written out."""
    names = dict(_VISION)
    for block in range(config.vision_config.num_hidden_layers):
        names |= {f"vpm.encoder.layers.{block}.{ours}": f"v.blk.{block}.{theirs}" for ours, theirs in _BLOCK.items()}
    for ours, theirs in names.items():
        for part in ("weight", "bias"):
            name = f"{ours}.{part}"
            if part == "bias" and name not in weights.shapes:
                continue
            read, shape = weights.reader(name), weights.shapes[name]
            if theirs == "v.position_embd":
                yield Piece(f"{theirs}.{part}", "F32", (1, *shape), read)
            else:
                yield Piece(f"{theirs}.{part}", _kind_of(shape, "f16"), shape, read)
    width = config.text_config.hidden_size
    for part in ("weight", "bias"):
        read = weights.reader(f"resampler.attn.in_proj_{part}")
        shape = (width, width) if part == "weight" else (width,)
        for place, letter in enumerate("qkv"):
            yield Piece(f"resampler.attn.{letter}.{part}", _kind_of(shape, "f16"), shape, partial(_third, read, place))
    query = weights.reader("resampler.query")
    yield Piece("resampler.query", "F32", weights.shapes["resampler.query"], query)
    proj = weights.reader("resampler.proj")
    yield Piece("resampler.proj.weight", "F16", (width, width), lambda: proj().T)
    places = sinusoid_2d(PLACE_SIDE, PLACE_SIDE, width, torch.device("cpu"))
    yield Piece("resampler.pos_embed_k", "F32", tuple(places.shape), lambda: places)


def _third(read: Callable[[], Tensor], place: int) -> Tensor:
    return read().chunk(3)[place]


def _kind_of(shape: tuple[int, ...], kind: str) -> str:
    """Vectors keep all their bits; matrices take the format where its groups fit."""
    if len(shape) < 2:
        return "F32"
    if kind.startswith("q") and shape[-1] % _GROUP:
        return "F16"
    return kind.upper()


def _text_keys(config: MiniCPMVConfig, processor: Any, kind: str, name: str) -> Callable[["gguf.GGUFWriter"], None]:
    text = config.text_config

    def write(writer: "gguf.GGUFWriter") -> None:
        import gguf

        rope = getattr(text, "rope_parameters", None) or {}
        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if kind == 'f32' else 'MOSTLY'}_{kind.upper()}"])
        writer.add_vocab_size(text.vocab_size)
        writer.add_context_length(text.max_position_embeddings)
        writer.add_embedding_length(text.hidden_size)
        writer.add_block_count(text.num_hidden_layers)
        writer.add_feed_forward_length(text.intermediate_size)
        writer.add_head_count(text.num_attention_heads)
        writer.add_head_count_kv(text.num_key_value_heads)
        writer.add_key_length(text.head_dim)
        writer.add_value_length(text.head_dim)
        writer.add_layer_norm_rms_eps(text.rms_norm_eps)
        writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
        _add_tokenizer(writer, processor.tokenizer, text.vocab_size)

    return write


def _add_tokenizer(writer: "gguf.GGUFWriter", tokenizer: Any, size: int) -> None:
    """A byte-level BPE of Qwen2's kind, with every id that the model has a row for."""
    import json

    import gguf

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {entry["id"]: entry for entry in described["added_tokens"]}
    words = {index: word for word, index in tokenizer.get_vocab().items()}
    tokens, kinds = [], []
    for index in range(size):
        tokens.append(words.get(index, f"[PAD{index}]"))
        if index not in words:
            kinds.append(gguf.TokenType.UNUSED)
        elif index in added:
            kinds.append(gguf.TokenType.CONTROL if added[index]["special"] else gguf.TokenType.USER_DEFINED)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in described["model"]["merges"]]
    # llama.cpp refuses a vocabulary without merges; this one never applies.
    merges = merges or [f"{tokens[tokenizer.pad_token_id]} {tokens[tokenizer.eos_token_id]}"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _vision_keys(config: MiniCPMVConfig, processor: Any, name: str) -> Callable[["gguf.GGUFWriter"], None]:
    vision = config.vision_config

    def write(writer: "gguf.GGUFWriter") -> None:
        import gguf

        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        writer.add_bool("clip.has_text_encoder", False)
        writer.add_clip_has_vision_encoder(True)
        writer.add_bool("clip.has_minicpmv_projector", True)
        writer.add_clip_projector_type("resampler")
        writer.add_int32("clip.minicpmv_version", CLIP_VERSION)
        writer.add_uint32("clip.minicpmv_query_num", config.query_num)
        writer.add_vision_image_size(config.scale_resolution)
        writer.add_vision_patch_size(vision.patch_size)
        writer.add_vision_embedding_length(vision.hidden_size)
        writer.add_vision_feed_forward_length(vision.intermediate_size)
        writer.add_vision_projection_dim(0)
        writer.add_vision_head_count(vision.num_attention_heads)
        writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
        writer.add_vision_block_count(vision.num_hidden_layers)
        writer.add_vision_image_mean(list(processor.image_processor.norm_mean))
        writer.add_vision_image_std(list(processor.image_processor.norm_std))
        writer.add_vision_use_gelu(True)

    return write


def _write(
    path: Path,
    architecture: str,
    keys: Callable[["gguf.GGUFWriter"], None],
    pieces: Iterator[Piece],
    told: Callable[[int], None],
) -> None:
    """One file, renamed into its place when it is whole; half a file is removed, whatever went wrong."""
    import gguf

    fresh = path.with_name(path.name + ".new")
    writer = gguf.GGUFWriter(fresh, architecture)
    try:
        keys(writer)
        _fill(writer, pieces, told)
        writer.close()
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        with suppress(OSError):  # what cannot be flushed to a full disk is about to be removed
            writer.close()
        fresh.unlink(missing_ok=True)


def _fill(writer: "gguf.GGUFWriter", pieces: Iterator[Piece], told: Callable[[int], None]) -> None:
    """What the file holds is listed first, then every tensor follows."""
    import gguf

    listed = list(pieces)
    for piece in listed:
        kind = gguf.GGMLQuantizationType[piece.kind]
        shape = gguf.quant_shape_to_byte_shape(piece.shape, kind) if _is_packed(piece.kind) else piece.shape
        numbers = np.dtype(np.uint8 if _is_packed(piece.kind) else _NUMBERS[piece.kind])
        writer.add_tensor_info(piece.name, shape, numbers, int(np.prod(shape)) * numbers.itemsize, raw_dtype=kind)
    with _writing():
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    for piece in listed:
        packed = _packed(piece)  # reads the checkpoint, whose errors are others
        with _writing():
            writer.write_tensor_data(packed)
        told(packed.nbytes)
    with _writing():
        writer.flush()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"The file could not be written: {error}.", remedy="Free some space, or name another --out."
        ) from error


_NUMBERS: Mapping[str, type[np.generic]] = {"F32": np.float32, "F16": np.float16}


def _is_packed(kind: str) -> bool:
    return kind not in _NUMBERS


def _packed(piece: Piece) -> NDArray[Any]:
    """A tensor's numbers as they stand in the file."""
    import gguf

    values = piece.read().float().contiguous().numpy().reshape(piece.shape)
    if not _is_packed(piece.kind):
        return values.astype(_NUMBERS[piece.kind])
    packed: NDArray[Any] = gguf.quants.quantize(values, gguf.GGMLQuantizationType[piece.kind])
    return packed
