"""Pages of a text of one's own as training samples: to read, or damaged and to be restored.

text file, font files -> own_text -> Draw
"""

from collections.abc import Sequence

from numpy.random import Generator

from minicpmv.data.corruption.calibration import Calibration
from minicpmv.data.corruption.corrupt import LEVEL_SHARES
from minicpmv.data.drawn import READ, Draw, damaged_sample, page_sample
from minicpmv.data.options import checked_path, checked_paths, checked_range, checked_share
from minicpmv.data.sample import Sample
from minicpmv.data.studio import Studio
from minicpmv.data.worlds.scripts import Font, read_text, render_text_page


def own_text(
    studio: Studio,
    *,
    text: str,
    fonts: str | Sequence[str],
    size_px: int | Sequence[int] = (16, 24),
    lines: int | Sequence[int] = (1, 8),
    damaged: float = 0.0,
) -> Draw:
    """Pages of a text of one's own, in any script, to be read or restored.

    Args:
        studio: how wide pages are.
        text: a file in UTF-8, a sentence or paragraph a line.
        fonts: a font file that has its characters, or several.
        size_px: smallest and largest font size.
        lines: fewest and most lines of the text on a page, which follow each other there.
        damaged: share of pages with damaged lines to restore.

    Raises:
        OptionError: a file cannot be read, or no font has the characters of any line.
    """
    smallest, largest = checked_range("size_px", size_px, 6, 200)
    fewest, most = checked_range("lines", lines, 1)
    damaged = checked_share("damaged", damaged)
    opened = [Font.open(font) for font in checked_paths("fonts", fonts)]
    printable = read_text(checked_path("text", text), opened)
    levels = Calibration.bundled()

    def draw(generator: Generator, key: str) -> Sample:
        first = int(generator.integers(len(printable)))
        some = printable[first : first + int(generator.integers(fewest, most + 1))]
        able = [font for font in opened if not font.lacks(some[0])]
        font = able[int(generator.integers(len(able)))]
        some = [line for line in some if not font.lacks(line)]
        page = render_text_page(
            generator,
            some,
            fonts=[font],
            width=int(generator.integers(studio.longest_side_px[0], studio.longest_side_px[1] + 1)),
            size_px=int(generator.integers(smallest, largest + 1)),
        )
        if generator.random() < damaged:
            return damaged_sample(generator, key, page, levels, LEVEL_SHARES)
        return page_sample(key, page, READ[int(generator.integers(len(READ)))], page.text, task="read")

    return draw
