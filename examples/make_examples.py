"""Write the example files again: a printed sign, a page of a PDF, a clip of a moving shape.

    python examples/make_examples.py

The words and the typeface of the sign are held out from training, so that reading them is no feat of memory. The files
are committed, because the typeface has to be installed to draw the sign.
"""

from pathlib import Path

from minicpmv.data.worlds.examples import held_out_line, write_clip_example, write_label, write_sign
from minicpmv.data.worlds.fonts import find_faces

HERE = Path(__file__).parent

if __name__ == "__main__":
    sign, label = held_out_line(seed=10), held_out_line(seed=17)
    face = next(face for face in find_faces("held_out") if face.style == "Book")
    write_sign(HERE / "sign.png", sign, seed=1, face=face)
    write_label(HERE / "note.pdf", label)
    clip = write_clip_example(HERE / "clip.mp4", task="direction", seed=2)
    print(f"sign.png ({face.family} {face.style}): {sign}\nnote.pdf: {label}\nclip.mp4: {clip.question} {clip.answer}")
