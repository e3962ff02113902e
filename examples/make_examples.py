"""Write the example files again: a printed sign, a label as a PDF page, a clip of a shape that changes its colour.

    python examples/make_examples.py

The words of sign and label and the typeface of the sign are held out from training, so that reading them is no feat of
memory. The files are committed, because the typeface has to be installed to draw the sign.

Sizes are those the bundled model was trained for: a sign of 224 x 56 px; a label whose page has 112 x 28 points, which
is 224 x 56 px at the resolution that pages are drawn at; a clip of six pictures at the rate that is looked at,
so that they fit into one frame pack.
"""

from pathlib import Path

from minicpmv.data.worlds.examples import write_clip_example, write_label, write_sign
from minicpmv.data.worlds.fonts import find_faces
from minicpmv.data.worlds.words import is_held_out

HERE = Path(__file__).parent
SIGN, LABEL = "Pasta $7.50", "Flour 21 Sep"

if __name__ == "__main__":
    if not (is_held_out(SIGN) and is_held_out(LABEL)):
        raise SystemExit("The words are in the training vocabulary; choose others.")
    face = next(face for face in find_faces("held_out", system=False) if face.style == "Book")
    write_sign(HERE / "sign.png", SIGN, seed=19, face=face)
    write_label(HERE / "note.pdf", LABEL, size_pt=(28, 112), font_size_pt=15)
    clip = write_clip_example(HERE / "clip.mp4", task="colour_first", seed=8, frame_rate=3)
    print(f"sign.png ({face.family} {face.style}): {SIGN}\nnote.pdf: {LABEL}\nclip.mp4: {clip.question} {clip.answer}")
