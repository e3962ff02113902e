"""Receipts of a small bakery, in German, as somebody might have them: pictures, questions and answers.

    python examples/make_receipts.py receipts

Writes `train.jsonl` with 300 receipts and `test.jsonl` with 60 others, a picture each. A stand-in for a reader's own
receipts in docs/tutorials/your-receipts.md: the bundled model knows no German and has not seen their layout.
"""

import json
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GOODS = ("Brot", "Brezel", "Kuchen", "Kaffee", "Torte", "Milch", "Butter", "Kekse", "Tee", "Honig")
SHOPS = ("Backhaus Nord", "Backhaus Mitte", "Backhaus am Tor")
PAID = ("bar", "Karte", "Gutschein")
WIDTH, STEP = 160, 19


def money(cents: int) -> str:
    """An amount as a German till prints it."""
    return f"{cents // 100},{cents % 100:02d}"


def receipt(chance: random.Random) -> tuple[Image.Image, list[tuple[str, str]]]:
    """A picture, and what can be asked about it with the answers."""
    bought = [(name, 5 * chance.randint(20, 300)) for name in chance.sample(GOODS, chance.randint(2, 4))]
    total, paid = sum(cents for _, cents in bought), chance.choice(PAID)
    date = f"{chance.randint(1, 28):02d}.{chance.randint(1, 12):02d}.2026"
    rows = [(chance.choice(SHOPS), ""), *((name, money(cents)) for name, cents in bought)]
    rows += [("Summe", money(total)), ("Bezahlt", paid), ("Datum", date)]
    font = ImageFont.load_default(chance.choice((14, 15, 16)))
    picture = Image.new("RGB", (WIDTH, STEP * len(rows) + 12), (250, 250, chance.randint(225, 250)))
    draw = ImageDraw.Draw(picture)
    for number, (left, right) in enumerate(rows):
        draw.text((6, 6 + number * STEP), left, (30, 30, 40), font=font)
        draw.text((WIDTH - 6, 6 + number * STEP), right, (30, 30, 40), font=font, anchor="ra")
    name, cents = chance.choice(bought)
    asked = [("Wie hoch ist die Summe?", money(total)), ("Wie wurde bezahlt?", paid), ("Von wann ist der Beleg?", date)]
    return picture, [*asked, (f"Was kostet {name}?", money(cents))]


def main() -> None:
    """Write both files."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for split, number, seed in (("train", 300, 0), ("test", 60, 1)):
        chance = random.Random(seed)
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(number):
                picture, asked = receipt(chance)
                name = f"{split}-{index:03d}.png"
                picture.save(folder / name)
                for question, answer in asked:
                    line = {"image": name, "question": question, "answer": answer}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
