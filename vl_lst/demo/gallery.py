"""A contact sheet of example pictures with questions, predictions and answers."""

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
BACKGROUND, FOREGROUND, MUTED, RIGHT, WRONG = "white", "#222222", "#6b7280", "#1a7f37", "#b42318"

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Card:
    """One example of the gallery.

    Args:
        images: Image files, drawn side by side.
        question: Question text; empty for captions.
        prediction: The model's answer.
        truth: The correct answer, or one of several.
        graded: Whether a prediction that differs from `truth` is wrong.
    """

    images: tuple[Path, ...]
    question: str
    prediction: str
    truth: str
    graded: bool = True


def draw_gallery(cards: Sequence[Card], path: Path) -> None:
    """Draw cards row by row and write the sheet as a PNG file."""
    rows = -(-len(cards) // COLUMNS)
    cell_width, cell_height = SIDE + 2 * MARGIN, SIDE + 2 * MARGIN + LINES * LINE
    sheet = Image.new("RGB", (COLUMNS * cell_width, rows * cell_height), BACKGROUND)
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
    """Return the lines of text below a picture, each with its colour."""
    texts = [(card.question, FOREGROUND)] if card.question else []
    if not card.graded:
        texts += [(card.prediction, FOREGROUND), (f"people: {card.truth}", MUTED)]
    elif card.prediction == card.truth:
        texts.append((card.prediction, RIGHT))
    else:
        texts.append((f"{card.prediction} (right: {card.truth})", WRONG))
    return [(line, colour) for text, colour in texts for line in _wrap(text, font, SIDE + MARGIN)]


def _wrap(text: str, font: _Font, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
