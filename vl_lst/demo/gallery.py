"""A picture of pictures: what was asked, what was answered, what is right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from eval.outputs import atomic_path

__all__ = ["Card", "draw_gallery"]

COLUMNS = 4
SIDE = 192
MARGIN = 14
LINE = 18
LINES = 4
GAP = 3
FONT_SIZE = 14
PAPER, INK, PALE, RIGHT, WRONG = "white", "#222222", "#6b7280", "#1a7f37", "#b42318"

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Card:
    """One picture of the gallery.

    Args:
        images: Files of its pictures; several share the place of one.
        question: What was asked; nothing where a caption was wanted.
        prediction: What the model answered.
        truth: The right answer, or one of many.
        graded: Whether an answer other than the truth is wrong.
    """

    images: tuple[Path, ...]
    question: str
    prediction: str
    truth: str
    graded: bool = True


def draw_gallery(cards: Sequence[Card], path: Path) -> None:
    """Draw cards row by row and write them as a PNG file."""
    rows = -(-len(cards) // COLUMNS)
    cell_width, cell_height = SIDE + 2 * MARGIN, SIDE + 2 * MARGIN + LINES * LINE
    sheet = Image.new("RGB", (COLUMNS * cell_width, rows * cell_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for number, card in enumerate(cards):
        row, column = divmod(number, COLUMNS)
        left, top = column * cell_width + MARGIN, row * cell_height + MARGIN
        side = SIDE // len(card.images) - (GAP if len(card.images) > 1 else 0)
        for place, image in enumerate(card.images):
            x, y = left + place * (side + 2 * GAP), top + (SIDE - side) // 2
            with Image.open(image) as picture:
                sheet.paste(picture.convert("RGB").resize((side, side)), (x, y))
            draw.rectangle((x, y, x + side, y + side), outline="#cccccc")
        top += SIDE + 6
        for line, colour in _lines(card, font)[:LINES]:
            draw.text((left, top), line, fill=colour, font=font)
            top += LINE
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")


def _lines(card: Card, font: _Font) -> list[tuple[str, str]]:
    """What stands below the picture, and in which colour."""
    texts = [(card.question, INK)] if card.question else []
    if not card.graded:
        texts += [(card.prediction, INK), (f"people: {card.truth}", PALE)]
    elif card.prediction == card.truth:
        texts.append((card.prediction, RIGHT))
    else:
        texts.append((f"{card.prediction} (right: {card.truth})", WRONG))
    return [
        (line, colour) for text, colour in texts for line in _wrapped(text, font, SIDE + MARGIN)
    ]


def _wrapped(text: str, font: _Font, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
