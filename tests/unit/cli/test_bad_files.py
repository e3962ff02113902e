"""Every file a person may hand over by mistake: one line, exit code 1, nothing on stdout; or an answer that says so."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from PIL import Image

from minicpmv.cli.main import main

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("not a picture, only words\n" * 20)


def folder(path: Path) -> None:
    path.mkdir()


def truncated_jpeg(path: Path) -> None:
    Image.effect_noise((400, 300), 80).convert("RGB").save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:4000])


def truncated_png(path: Path) -> None:
    Image.effect_noise((400, 300), 80).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:4000])


def truncated_clip(path: Path) -> None:
    clip = (EXAMPLES / "clip.mp4").read_bytes()
    path.write_bytes(clip[: len(clip) // 2])


def truncated_page(path: Path) -> None:
    path.write_bytes((EXAMPLES / "note.pdf").read_bytes()[:60])


def encrypted_page(path: Path) -> None:
    handler = f"<< /Filter /Standard /V 2 /R 3 /Length 128 /P -4 /O <{'ab' * 32}> /U <{'cd' * 32}> >>"
    plain = (EXAMPLES / "note.pdf").read_bytes().decode("latin-1")
    identity = f"/ID [<{'01' * 16}> <{'01' * 16}>]"
    path.write_bytes(plain.replace("trailer\n<<", f"trailer\n<< /Encrypt {handler} {identity}").encode("latin-1"))


def clip_without_frames(path: Path) -> None:
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()


def sound_only(path: Path) -> None:
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 16000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def enormous(path: Path) -> None:
    """A PNG that promises 30000 x 30000 px and holds next to nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 1000)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


BAD: list[tuple[str, Callable[[Path], None]]] = [
    ("empty.png", empty),
    ("words.png", text),
    ("words.mp4", text),
    ("words.pdf", text),
    ("folder.png", folder),
    ("half.jpg", truncated_jpeg),
    ("half.png", truncated_png),
    ("half.mp4", truncated_clip),
    ("half.pdf", truncated_page),
    ("locked.pdf", encrypted_page),
    ("none.mp4", clip_without_frames),
    ("sound.mp4", sound_only),
    ("enormous.png", enormous),
    ("missing.png", lambda path: None),
]


@pytest.mark.parametrize(("name", "make"), BAD, ids=[name for name, _ in BAD])
@pytest.mark.parametrize("command", ["plan", "ask"])
def test_a_bad_file_ends_in_one_line_that_names_it(
    command: str,
    name: str,
    make: Callable[[Path], None],
    tmp_path: Path,
    toy_folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """`capfd` also sees what a C library writes past Python."""
    file = tmp_path / name
    make(file)
    question = ["What is it?"] if command == "ask" else []
    code = main([command, str(file), *question, "--model", str(toy_folder)])
    out, err = capfd.readouterr()
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert name in err


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=100)


CONVERTED: list[tuple[str, Callable[[Path], None], str]] = [
    ("moving.gif", animated, "first"),
    ("print.jpg", lambda path: Image.new("CMYK", (40, 30), (10, 20, 30, 0)).save(path), ""),
    ("deep.png", lambda path: Image.new("I;16", (40, 30), 30000).save(path), ""),
    ("palette.png", lambda path: Image.new("P", (40, 30), 3).save(path), ""),
    ("alpha.png", lambda path: Image.new("RGBA", (40, 30), (1, 2, 3, 0)).save(path), ""),
    ("bits.png", lambda path: Image.new("1", (40, 30), 1).save(path), ""),
    ("renamed.mp4", lambda path: Image.new("RGB", (40, 30)).save(path, "PNG"), ""),
]


@pytest.mark.parametrize(("name", "make", "said"), CONVERTED, ids=[name for name, *_ in CONVERTED])
def test_an_unusual_picture_is_converted_and_a_loss_is_said(
    name: str,
    make: Callable[[Path], None],
    said: str,
    tmp_path: Path,
    toy_folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / name)
    code = main(["plan", str(tmp_path / name), "--model", str(toy_folder)])
    out, err = capfd.readouterr()
    assert code == 0
    assert "image, 40 x 30 px" in out
    assert said in err


def test_a_picture_of_1_by_20000_is_planned_or_refused_in_one_line(
    tmp_path: Path, toy_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (1, 20000), "red").save(tmp_path / "thread.png")
    code = main(["plan", str(tmp_path / "thread.png"), "--model", str(toy_folder)])
    out, err = capfd.readouterr()
    assert (code, err.count("\n")) in {(0, 0), (1, 1)}
    assert ("thread.png" in err) if code else ("1 x 20000 px" in out)
