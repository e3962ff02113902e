"""Exported files say in the real llama.cpp what the model says here."""

import base64
import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from minicpmv.cli.main import main
from minicpmv.data.worlds.fonts import find_faces
from minicpmv.data.worlds.lines import render_line
from minicpmv.errors import CheckpointError, OptionError
from minicpmv.export import gguf as exporting
from minicpmv.export.gguf import TYPES, export_gguf
from minicpmv.generation.loading import Loaded, bundled_folder, load
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.training.model_folder import build_processor, write_model_folder
from minicpmv.training.towers.tokenizer import train_tokenizer

gguf = pytest.importorskip("gguf")

# In a process of its own: llama.cpp ends the process where a file is not to its liking.
LLAMA = """
import json, sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.mmproj.path = sys.argv[1:3]
params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 2048, 1, False, 0
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
told = []
for request in json.loads(sys.stdin.read()):
    answer = server.handle_chat_completions(request)
    told.append(json.loads(answer) if isinstance(answer, str) else answer)
print("ANSWERS" + json.dumps([one["choices"][0] for one in told]))
"""
LOGPROB = 8e-3
"""Measured: at most 2.7e-3; llama.cpp keeps keys and values in float16."""
SHORT = {"enable_thinking": False}


@pytest.fixture(scope="module")
def nano() -> Loaded:
    return load("nano", device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return export_gguf("nano", tmp_path_factory.mktemp("gguf"), "f32")


def by_llama(files: tuple[Path, Path], contents: list[Any], num_new: int) -> list[dict[str, Any]]:
    pytest.importorskip("xllamacpp")
    requests = [
        {
            "messages": [{"role": "user", "content": content}],
            "max_tokens": num_new,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 5,
            "chat_template_kwargs": SHORT,
        }
        for content in contents
    ]
    done = subprocess.run(
        [sys.executable, "-c", LLAMA, *map(str, files)],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS")]
    assert lines, done.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads(lines[-1].removeprefix("ANSWERS"))
    return answers


def rendered(loaded: Loaded, content: Any, **options: Any) -> Any:
    return loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        **SHORT,
        **options,
    )


def by_us(loaded: Loaded, content: Any, num_new: int, **options: Any) -> str:
    inputs = rendered(loaded, content, **options)
    with torch.inference_mode():
        out = loaded.model.generate(**inputs, max_new_tokens=num_new, do_sample=False)
    text: str = loaded.processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def as_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_words_are_continued_as_here(nano: Loaded, files: tuple[Path, Path]) -> None:
    # Asked as in training, so that no two words are so nearly alike that rounding decides.
    told = "Garadan Fenman is a baker. Garadan Fenman lives in Osterormouth."
    questions = ["apples 42\nRead the text.", f"{told}\nWhere does Garadan Fenman live?", "What colour is it? äöü €"]
    theirs = by_llama(files, questions, 24)
    assert [one["message"]["content"] for one in theirs] == [by_us(nano, one, 24) for one in questions]


@pytest.mark.parametrize("question", ["Repeat this text: apples 42", "What is 17 + 25?", "What colour comes first?"])
def test_words_weigh_as_much_as_here(question: str, nano: Loaded, files: tuple[Path, Path]) -> None:
    check_next_words(nano, files, question)


def check_next_words(loaded: Loaded, files: tuple[Path, Path], question: str) -> None:
    with torch.inference_mode():
        scores = loaded.model(**rendered(loaded, question)).logits[0, -1].float().log_softmax(-1)
    told = by_llama(files, [question], 1)[0]["logprobs"]["content"][0]["top_logprobs"]
    assert len(told) == 5
    for one in told:
        assert scores[one["id"]].item() == pytest.approx(one["logprob"], abs=LOGPROB)


def test_a_vocabulary_of_single_bytes_is_cut_as_here(nano: Loaded, tmp_path: Path) -> None:
    processor = build_processor(nano.model, train_tokenizer([], 362), nano.processor.video_processor)
    write_model_folder(tmp_path / "model", nano.model, processor, dtype=torch.float32)
    loaded = load(tmp_path / "model", device="cpu", dtype="float32")
    assert len(loaded.processor.tokenizer.encode("apples", add_special_tokens=False)) == len("apples")
    files = export_gguf(str(tmp_path / "model"), tmp_path / "exported", "f32")
    check_next_words(loaded, files, "Repeat: apples 42, äöü €")


def test_pictures_are_read_as_here(nano: Loaded, files: tuple[Path, Path]) -> None:
    generator = np.random.default_rng(5)
    faces = find_faces("train", system=False)
    pictures = [
        Image.fromarray(render_line(generator, faces=faces, split="train", size=(112, 112), max_words=2).image)
        for _ in range(6)
    ]
    question = "What is written in the picture?"
    contents = [
        [{"type": "image_url", "image_url": {"url": as_url(picture)}}, {"type": "text", "text": question}]
        for picture in pictures
    ]
    theirs = [one["message"]["content"] for one in by_llama(files, contents, 24)]
    # llama.cpp knows no numbers of pictures in its prompts.
    ours = [
        by_us(nano, [{"type": "image", "image": picture}, {"type": "text", "text": question}], 24, use_image_id=False)
        for picture in pictures
    ]
    assert sum(one == other for one, other in zip(theirs, ours, strict=True)) >= 5, (theirs, ours)


@pytest.mark.parametrize("kind", TYPES)
def test_the_numbers_of_every_type_are_the_checkpoints(kind: str, tmp_path: Path) -> None:
    stored = load_file(bundled_folder() / "model.safetensors")
    text, vision = export_gguf("nano", tmp_path, kind)
    assert {path.name for path in tmp_path.iterdir()} == {text.name, vision.name}
    found = {one.name: one for path in (text, vision) for one in gguf.GGUFReader(path).tensors}
    assert len(found) == 4 * 11 + 3 + 16 * 6 + 5 + 18
    bound = {"f32": 0.0, "f16": 1e-3, "bf16": 8e-3, "q8_0": 8e-3, "q4_0": 0.13}[kind]
    for name, ours in (
        ("blk.1.ffn_gate.weight", "llm.model.layers.1.mlp.gate_proj.weight"),
        ("output.weight", "llm.lm_head.weight"),
    ):
        assert found[name].tensor_type == gguf.GGMLQuantizationType[kind.upper()]
        wanted = stored[ours].float().numpy()
        numbers = gguf.quants.dequantize(found[name].data, found[name].tensor_type).reshape(wanted.shape)
        assert np.abs(numbers - wanted).max() <= bound * np.abs(wanted).max()
    norm = found["blk.0.attn_norm.weight"].data
    assert np.array_equal(norm, stored["llm.model.layers.0.input_layernorm.weight"].float().numpy())
    down = found["v.blk.0.ffn_down.weight"].data  # swapped: this is the first of the two maps
    assert down.shape == tuple(stored["vpm.encoder.layers.0.mlp.fc1.weight"].shape)
    cut = stored["resampler.attn.in_proj_weight"].chunk(3)[1].half().numpy()
    assert np.array_equal(found["resampler.attn.k.weight"].data, cut)
    assert np.array_equal(found["resampler.proj.weight"].data, stored["resampler.proj"].T.half().numpy())


def test_the_release_gives_the_tensors_of_the_files_in_circulation() -> None:
    config = MiniCPMVConfig.preset("4.5")
    with torch.device("meta"):
        shapes = {name: tuple(one.shape) for name, one in MiniCPMVForConditionalGeneration(config).state_dict().items()}
    unread = dict.fromkeys(shapes)
    weights = exporting.Weights(unread, shapes)
    text = {one.name: one for one in exporting.text_pieces(config, weights, "q8_0")}
    vision = {one.name: one for one in exporting.vision_pieces(config, weights)}
    assert len(text) == 36 * 11 + 3
    assert len(vision) == 455
    numbers = sum(int(np.prod(one.shape)) for pieces in (text, vision) for one in pieces.values())
    table = vision["resampler.pos_embed_k"].shape  # no parameter, but in the file
    assert table == (4900, 4096)
    assert numbers - 4900 * 4096 == sum(int(np.prod(shape)) for shape in shapes.values())
    assert text["blk.35.ffn_down.weight"].kind == "Q8_0"
    assert {one.kind for one in vision.values()} == {"F16", "F32"}


def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match="q3_k_m"):
        export_gguf("nano", tmp_path, "q3_k_m")
    incomplete = tmp_path / "incomplete"
    incomplete.mkdir()
    for path in bundled_folder().iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (incomplete / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="no safetensors"):
        export_gguf(incomplete, tmp_path / "out")
    weights = load_file(bundled_folder() / "model.safetensors")
    del weights["llm.model.layers.2.mlp.up_proj.weight"]
    save_file(weights, incomplete / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no tensor llm\.model\.layers\.2\.mlp\.up_proj\.weight"):
        export_gguf(incomplete, tmp_path / "out")
    (incomplete / "model.safetensors").write_bytes((bundled_folder() / "model.safetensors").read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="damaged"):
        export_gguf(incomplete, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    old = MiniCPMVConfig.preset("4.0")
    monkeypatch.setattr(exporting, "read_config", lambda _: old)
    assert main(["export", "gguf", "nano", "--out", str(tmp_path)]) == 1
    assert "Only MiniCPM-V 4.5" in capsys.readouterr().err


def test_a_full_disk_leaves_the_older_file_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, _ = export_gguf("nano", tmp_path, "q4_0")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    written = 0
    write = gguf.GGUFWriter.write_tensor_data

    def fill(writer: Any, tensor: Any) -> None:
        nonlocal written
        written += 1
        if written > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, tensor)

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", fill)
    assert main(["export", "gguf", "nano", "--out", str(tmp_path), "--type", "q4_0"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "No space left" in said[0]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert text.name in before


def test_the_command_names_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "gguf", "nano", "--out", str(tmp_path), "--type", "q4_0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "model": str(tmp_path / "nano-q4_0.gguf"),
        "mmproj": str(tmp_path / "nano-mmproj-f16.gguf"),
    }
    assert Path(told["model"]).stat().st_size < 1.6e6
