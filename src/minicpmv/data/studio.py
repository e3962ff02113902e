"""What pages are drawn with: whose words, names, typefaces and layouts, and how large.

    Studio(split, faces, entities) -> page(kind) -> PageSample

The studio decides what may be seen in training: words, names, typefaces and one layout of every kind are kept for
evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numpy.random import Generator

from minicpmv.data.options import checked_number, checked_range
from minicpmv.data.worlds.articles import ARTICLE_LAYOUTS, render_article
from minicpmv.data.worlds.charts import CHART_LAYOUTS, render_chart
from minicpmv.data.worlds.fonts import Face, Split, find_faces
from minicpmv.data.worlds.forms import FORM_LAYOUTS, render_form
from minicpmv.data.worlds.knowledge import Entity, entities_of, make_world
from minicpmv.data.worlds.paper import PageSample
from minicpmv.data.worlds.receipts import RECEIPT_LAYOUTS, render_receipt
from minicpmv.data.worlds.screens import SCREEN_LAYOUTS, render_screen
from minicpmv.data.worlds.tables import TABLE_LAYOUTS, draw_table, render_table
from minicpmv.errors import OptionError

PAGE_KINDS = ("article", "receipt", "form", "table", "chart", "screen")
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "article": ARTICLE_LAYOUTS,
    "receipt": RECEIPT_LAYOUTS,
    "form": FORM_LAYOUTS,
    "table": TABLE_LAYOUTS,
    "chart": CHART_LAYOUTS,
    "screen": SCREEN_LAYOUTS,
}

SMALLEST_SIDE_PX = 56
"""Smallest bound of pages: below it hardly a word fits into a line."""
LARGEST_SIDE_PX = 8192
"""Largest bound; a page of A4 at 600 dpi is 7016 px high."""
_MOST_SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class Studio:
    """What pages are drawn with.

    Attributes:
        split: whose words, names, faces and layouts.
        faces: typefaces.
        entities: whom articles and forms are about.
        longest_side_px: pages are made no larger than this unless what stands on them needs it; smallest and largest
            bound, of which every page draws one. Receipts, forms and code are as high as they need to be, tables as
            large.
    """

    split: Split
    faces: Sequence[Face]
    entities: Sequence[Entity]
    longest_side_px: tuple[int, int] = (224, 224)

    @classmethod
    def open(cls, split: Split, *, world_seed: int = 0, longest_side_px: int | Sequence[int] = 224) -> "Studio":
        """The studio of a split, with the faces that Python packages bring.

        Args:
            split: whose words, names, faces and layouts.
            world_seed: of the closed world.
            longest_side_px: bound of every page, or the smallest and the largest bound.

        Raises:
            OptionError: the bounds are no two numbers in order, or the seed is none.
        """
        bounds = checked_range("longest_side_px", longest_side_px, SMALLEST_SIDE_PX, LARGEST_SIDE_PX)
        world_seed = checked_number("world_seed", world_seed, 0, _MOST_SEEDS)
        faces = find_faces(split, system=False)
        return cls(split, faces, entities_of(make_world(world_seed), split), bounds)

    def layouts(self, kind: str) -> tuple[str, ...]:
        """Layouts of a kind of page; the last one is never seen in training."""
        return LAYOUTS[kind][:-1] if self.split == "train" else LAYOUTS[kind][-1:]

    def page(self, generator: Generator, kind: str) -> PageSample:
        """A page of a kind, in one of the split's layouts, with a number of lines at random.

        Raises:
            OptionError: the kind is none of `PAGE_KINDS`.
        """
        if kind not in PAGE_KINDS:
            raise OptionError(f"'{kind}' is no kind of page.", remedy=f"Choose one of {', '.join(PAGE_KINDS)}.")
        layouts = self.layouts(kind)
        layout = layouts[int(generator.random() * len(layouts))]
        size_px = 13 + int(generator.random() * 4)
        side = int(generator.integers(self.longest_side_px[0], self.longest_side_px[1] + 1))
        lines = 2 + int(generator.random() * 5)
        if kind == "article":
            size = (side * (2 + int(generator.random() * 3)) // 4, side)
            return render_article(generator, self.entities, faces=self.faces, size=size, size_px=size_px, layout=layout)
        if kind == "receipt":
            return render_receipt(
                generator,
                faces=self.faces,
                split=self.split,
                num_items=min(lines, 4),
                width=side,
                size_px=size_px,
                layout=layout,
            )
        if kind == "form":
            people = [entity for entity in self.entities if entity.kind == "person"]
            return render_form(
                generator,
                faces=self.faces,
                split=self.split,
                people=people,
                num_fields=lines,
                width=side,
                size_px=size_px,
                layout=layout,
            )
        if kind == "table":
            table = draw_table(generator, self.split, min(lines, 5), 2 + int(generator.random() * 2))
            return render_table(generator, table, faces=self.faces, size_px=size_px, layout=layout)
        if kind == "chart":
            return render_chart(
                generator, faces=self.faces, num_values=min(lines, 5) + 1, size=(side, side), layout=layout
            )
        size = (side * (2 + int(generator.random() * 2)) // 4, side)
        return render_screen(
            generator, faces=self.faces, split=self.split, num_lines=lines, size=size, size_px=size_px, layout=layout
        )
