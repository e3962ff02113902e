"""Shop receipts: items with prices that really add up.

shop, items, tax -> lines left and right -> PageSample, with questions about prices and the total
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from numpy.random import Generator

from minicpmv.data.worlds.fonts import Face, Split
from minicpmv.data.worlds.paper import Box, PageSample, Paper, Question, text_width
from minicpmv.data.worlds.words import dictionary, of_split, pseudo_word, time_or_date

RECEIPT_LAYOUTS = ("plain", "ruled", "quantities", "dotted")
"""How a receipt may be laid out."""

PRINTED = ("Subtotal", "Tax", "Total", "Date")
"""What stands before amounts; nothing that is bought is called so."""

_TAX_PERCENT = (5, 7, 8, 10, 19, 20)


@dataclass(frozen=True, slots=True)
class Item:
    """Something bought: name, how many, and the price of one in cents."""

    name: str
    count: int
    cents: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says, in cents."""

    shop: str
    items: tuple[Item, ...]
    tax_percent: int
    when: str

    @property
    def subtotal(self) -> int:
        """All items without tax."""
        return sum(item.count * item.cents for item in self.items)

    @property
    def tax(self) -> int:
        """The tax, rounded to a cent."""
        return round(self.subtotal * self.tax_percent / 100)

    @property
    def total(self) -> int:
        """What is to be paid."""
        return self.subtotal + self.tax


def money(cents: int) -> str:
    """An amount as it is printed."""
    return f"{cents // 100}.{cents % 100:02d}"


def draw_receipt(generator: Generator, split: Split, num_items: int) -> Receipt:
    """A receipt of different items from the vocabulary of a split."""
    names = [word for word in dictionary(split) if 3 <= len(word) <= 9]
    shuffled = (names[int(index)].title() for index in generator.permutation(len(names)))
    chosen = list(islice((name for name in shuffled if name not in PRINTED), num_items))
    items = tuple(
        Item(name, 1 + int(generator.random() ** 2 * 4), 5 * (1 + int(generator.random() * 400))) for name in chosen
    )
    tax = _TAX_PERCENT[int(generator.random() * len(_TAX_PERCENT))]
    shop = of_split(generator, split, pseudo_word).title()
    return Receipt(f"{shop} Shop", items, tax, of_split(generator, split, time_or_date))


def render_receipt(
    generator: Generator,
    *,
    faces: Sequence[Face],
    split: Split,
    num_items: int = 3,
    width: int = 168,
    size_px: int = 14,
    layout: str = "plain",
) -> PageSample:
    """A receipt as high as it needs to be.

    Args:
        generator: source of randomness.
        faces: faces to choose from.
        split: vocabulary of the items.
        num_items: how many things were bought.
        width: of the paper, in px; wider if a line needs it.
        size_px: font size.
        layout: one of `RECEIPT_LAYOUTS`.
    """
    receipt = draw_receipt(generator, split, num_items)
    face = faces[int(generator.random() * len(faces))]
    rows = _rows(receipt, layout)
    step = round(size_px * 1.3)
    title = text_width(face, size_px, receipt.shop)
    needed = max(text_width(face, size_px, key) + text_width(face, size_px, value) for key, value in rows)
    width = max(width, title + 4, needed + size_px // 2 + 8)
    paper = Paper((step * (len(rows) + 2) + step // 2, width))
    paper.write("title", [(receipt.shop, (width - title) // 2, step)], face, size_px)
    baseline = 2 * step
    for key, value in rows:
        if layout == "ruled" and key == "Total":
            paper.rule(Box(4, baseline - step + 3, width - 4, baseline - step + 4))
        right = width - 4 - text_width(face, size_px, value)
        paper.write("key", [(key, 4, baseline)], face, size_px)
        if layout == "dotted":
            _dots(paper, 4 + text_width(face, size_px, key) + 3, right - 3, baseline)
        paper.write("value", [(value, right, baseline)], face, size_px)
        baseline += step
    return paper.finish(generator, "receipt", _questions(receipt))


def _rows(receipt: Receipt, layout: str) -> list[tuple[str, str]]:
    """Left and right of every line below the title."""
    rows = []
    for item in receipt.items:
        count = f"{item.count} x " if layout == "quantities" or item.count > 1 else ""
        rows.append((count + item.name, money(item.count * item.cents)))
    subtotal, tax, total, date = PRINTED
    rows += [(subtotal, money(receipt.subtotal)), (f"{tax} {receipt.tax_percent}%", money(receipt.tax))]
    return [*rows, (total, money(receipt.total)), (date, receipt.when)]


def _dots(paper: Paper, left: int, right: int, baseline: int) -> None:
    for x in range(left, right, 4):
        paper.rule(Box(x, baseline - 1, x + 1, baseline))


def _questions(receipt: Receipt) -> list[Question]:
    questions = [
        Question("receipt_total", "What is the total?", money(receipt.total)),
        Question("receipt_tax", "How much is the tax?", money(receipt.tax)),
        Question("receipt_shop", "What is the name of the shop?", receipt.shop),
        Question("receipt_date", "What is the date?", receipt.when),
        Question("receipt_items", "How many different items are there?", str(len(receipt.items))),
    ]
    for item in receipt.items:
        questions.append(
            Question("receipt_price", f"How much was paid for {item.name}?", money(item.count * item.cents))
        )
    return questions
