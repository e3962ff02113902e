"""Example files a person can open: a printed sign as PNG, a label as PDF, a moving shape as MP4."""

from pathlib import Path

import numpy as np
from PIL import Image

from minicpmv.data.worlds.clip_files import write_clip
from minicpmv.data.worlds.clips import ClipSample, render_clip
from minicpmv.data.worlds.fonts import Face
from minicpmv.data.worlds.lines import print_lines
from minicpmv.errors import OptionError


def write_sign(
    path: Path, text: str, *, seed: int, face: Face, size_px: float = 26, size: tuple[int, int] = (56, 224)
) -> None:
    """A picture with a printed line (or several, separated by newlines).

    Args:
        path: PNG file to write.
        text: printable ASCII.
        seed: decides place and colours.
        face: face to print with.
        size_px: font size in px.
        size: height and width in px.
    """
    sample = print_lines(np.random.default_rng(seed), text.split("\n"), face=face, size_px=size_px, size=size)
    Image.fromarray(sample.image).save(path)


def write_clip_example(
    path: Path, *, task: str, seed: int, side: int = 84, scale: int = 4, frame_rate: int | None = None
) -> ClipSample:
    """A six-frame clip as a video file; returns the sample with its question and answer.

    Args:
        path: video file to write.
        task: one of `clips.CLIP_TASKS`.
        seed: decides everything.
        side: side of the drawn frames in px, even.
        scale: enlargement in the file.
        frame_rate: show this many frames per second instead of keeping the sample's own times.
    """
    sample = render_clip(np.random.default_rng(seed), task=task, size=(side, side))
    if frame_rate is None:
        write_clip(path, sample.frames, sample.times_s, scale=scale)
    else:
        times_s = [index / frame_rate for index in range(len(sample.frames))]
        write_clip(path, sample.frames, times_s, frame_rate=frame_rate, scale=scale)
    return sample


def write_label(path: Path, text: str, *, size_pt: tuple[int, int] = (56, 224), font_size_pt: int = 24) -> None:
    """A one-page PDF with real text (not a picture of it), printed in the viewer's Helvetica.

    Args:
        path: PDF file to write.
        text: printable ASCII, lines separated by newlines.
        size_pt: page height and width in points.
        font_size_pt: font size in points; it is up to the caller that the text fits.

    Raises:
        OptionError: the text has characters that this plain PDF cannot show.
    """
    if not all(line.isascii() and line.isprintable() for line in text.split("\n")):
        raise OptionError("The label has characters outside printable ASCII.", remedy="Use plain letters and digits.")
    height, width = size_pt
    lines = [line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)") for line in text.split("\n")]
    leading = font_size_pt * 5 // 4
    top = (height + leading * (len(lines) - 1)) / 2 - font_size_pt * 0.35
    shown = " T* ".join(f"({line}) Tj" for line in lines)
    content = f"BT /F1 {font_size_pt} Tf {leading} TL {font_size_pt // 2} {top:.1f} Td {shown} ET"
    path.write_bytes(_pdf_bytes(content, width, height))


def _pdf_bytes(content: str, width_pt: int, height_pt: int) -> bytes:
    """A complete PDF file with one page, one standard font and one content stream."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width_pt} {height_pt}] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    file = "%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(file))
        file += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    tail = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(file)}\n%%EOF\n"
    return (file + f"xref\n0 {size}\n0000000000 65535 f \n" + table + tail).encode("ascii")
