"""Clips and PDFs, made on the spot. Every frame of a clip carries its own number, drawn as black and white bars."""

import gc
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium_c
import pytest
from PIL import Image

NUM_BARS = 9
BAR_PX = 16

WriteClip = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_file_stays_open() -> Iterator[None]:
    """A forgotten handle is a ResourceWarning when it is collected, and warnings are errors."""
    yield
    gc.collect()


def numbered_frame(number: int, width: int, height: int) -> np.ndarray:
    picture = np.full((height, width, 3), 96, np.uint8)
    for bar in range(NUM_BARS):
        picture[:BAR_PX, bar * BAR_PX : (bar + 1) * BAR_PX] = 235 if number >> bar & 1 else 16
    return picture


def number_of(image: Image.Image) -> int:
    values = np.asarray(image.convert("L"))[BAR_PX // 2, BAR_PX // 2 : NUM_BARS * BAR_PX : BAR_PX]
    return int(sum(int(value > 128) << bar for bar, value in enumerate(values)))


@pytest.fixture
def number_in() -> Callable[[Image.Image], int]:
    """Reads the number that `write_clip` drew."""
    return number_of


@pytest.fixture
def write_clip(tmp_path: Path) -> WriteClip:
    """Writes a clip of numbered frames."""

    def write(
        name: str,
        num_frames: int = 30,
        *,
        rate: int | Fraction = 30,
        size: tuple[int, int] = (160, 48),
        codec: str = "libx264",
        options: dict[str, str] | None = None,
        mux: dict[str, str] | None = None,
        times_ms: list[int] | None = None,
        rotation: int = 0,
        pix_fmt: str = "yuv420p",
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=mux or {}) as container:
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.width, stream.height = size
            stream.pix_fmt = pix_fmt
            if rotation:
                stream.set_display_rotation(rotation)
            if times_ms is not None:
                stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            for number in range(num_frames):
                frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
                if times_ms is not None:
                    frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def remux(tmp_path: Path) -> Callable[..., Path]:
    """Copies the packets of a clip into another container, without some of the first."""

    def copy(source: Path, name: str, *, skip: int = 0, mux: dict[str, str] | None = None) -> Path:
        path = tmp_path / name
        with av.open(str(source)) as given, av.open(str(path), "w", options=mux or {}) as container:
            stream = container.add_stream_from_template(given.streams.video[0])
            packets = [packet for packet in given.demux(video=0) if packet.size]
            for packet in packets[skip:]:
                packet.stream = stream
                container.mux(packet)
        return path

    return copy


@pytest.fixture
def write_pdf(tmp_path: Path) -> Callable[..., Path]:
    """Writes a PDF of pages of the given sizes in points, each with a black rectangle in its lower left corner."""

    def write(name: str, sizes: list[tuple[float, float]]) -> Path:
        path = tmp_path / name
        document = pypdfium2.PdfDocument.new()
        for width, height in sizes:
            page = document.new_page(width, height)
            box = pdfium_c.FPDFPageObj_CreateNewRect(0, 0, width / 2, height / 2)
            pdfium_c.FPDFPageObj_SetFillColor(box, 0, 0, 0, 255)
            pdfium_c.FPDFPath_SetDrawMode(box, pdfium_c.FPDF_FILLMODE_ALTERNATE, False)
            pdfium_c.FPDFPage_InsertObject(page, box)
            page.gen_content()
            page.close()
        document.save(str(path))
        document.close()
        return path

    return write
