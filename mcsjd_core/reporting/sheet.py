"""A contact sheet: pictures in rows and columns, with a title over every row and a caption under every picture."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from .fonts import font_for

TILE = (192, 256)  # least and greatest width of a picture on the sheet
MARGIN, GAP, PADDING = 36, 18, 8
INK, GREY, LINE, GREEN, RED = "#1c1c22", "#6b6b76", "#dcdce2", "#1a7f37", "#c62828"
TITLE_SIZE, ROW_SIZE, FIGURE_SIZE, TEXT_SIZE = 26, 19, 22, 14
LEADING = 1.35  # line height in units of the font size


@dataclass(frozen=True)
class Cell:
    """One picture: the method's name, its main figure, the others, and for the seed-exact one whether AR's was the same."""

    picture: Image.Image
    name: str
    figure: str
    details: str
    same: bool | None = None


@dataclass(frozen=True)
class Row:
    title: str
    cells: list[Cell]


class _Pen:
    """Writes text into an image with Pillow's own font, or one that has its signs; bold is a stroke of the same colour."""

    def __init__(self, image: Image.Image):
        self.draw = ImageDraw.Draw(image)

    def text(
        self,
        at: tuple[float, float],
        text: str,
        size: int,
        colour: str = INK,
        bold: bool = False,
        width: float | None = None,
    ) -> int:
        """Write one line, shortened to `width`; gives the y below it."""
        font, text = font_for(text, size)
        if width is not None:
            text = _fit(text, font, width)
        stroke = size / 40 if bold else 0
        self.draw.text(at, text, fill=colour, font=font, stroke_width=stroke, stroke_fill=colour)
        return round(at[1] + size * LEADING)


def _fit(text: str, font, width: float) -> str:
    """`text`, cut with an ellipsis if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def draw_sheet(title: str, subtitle: str, rows: list[Row], footnote: str) -> Image.Image:
    """All rows on white; every row has the same number of cells, pictures of one size."""
    first = rows[0].cells[0].picture
    width = min(max(first.width, TILE[0]), TILE[1])
    tile = (width, round(first.height * width / first.width))
    columns = max(len(row.cells) for row in rows)
    has_note = any(cell.same is not None for row in rows for cell in row.cells)
    caption = round((FIGURE_SIZE + TEXT_SIZE * (3 if has_note else 2)) * LEADING) + PADDING
    row_height = round(ROW_SIZE * LEADING) + PADDING + tile[1] + caption + GAP
    head = round((TITLE_SIZE + TEXT_SIZE) * LEADING) + GAP
    foot = round(TEXT_SIZE * LEADING)
    size = (2 * MARGIN + columns * tile[0] + (columns - 1) * GAP, 2 * MARGIN + head + len(rows) * row_height + foot)
    sheet = Image.new("RGB", size, "white")
    pen, inner = _Pen(sheet), size[0] - 2 * MARGIN
    y = pen.text((MARGIN, MARGIN), title, TITLE_SIZE, bold=True, width=inner)
    pen.text((MARGIN, y), subtitle, TEXT_SIZE, GREY, width=inner)
    for number, row in enumerate(rows):
        top = MARGIN + head + number * row_height
        y = pen.text((MARGIN, top), row.title, ROW_SIZE, bold=True, width=inner) + PADDING
        for column, cell in enumerate(row.cells):
            _draw_cell(sheet, pen, (MARGIN + column * (tile[0] + GAP), y), tile, cell)
    pen.text((MARGIN, size[1] - MARGIN - foot), footnote, TEXT_SIZE, GREY, width=inner)
    return sheet


def _draw_cell(sheet: Image.Image, pen: _Pen, at: tuple[int, int], tile: tuple[int, int], cell: Cell) -> None:
    x, y = at
    sheet.paste(cell.picture.resize(tile, Image.Resampling.LANCZOS), at)
    pen.draw.rectangle((x, y, x + tile[0] - 1, y + tile[1] - 1), outline=LINE)
    below = pen.text((x, y + tile[1] + PADDING), cell.name, TEXT_SIZE, bold=True, width=tile[0])
    below = pen.text((x, below), cell.figure, FIGURE_SIZE, bold=True)
    below = pen.text((x, below), cell.details, TEXT_SIZE, GREY, width=tile[0])
    if cell.same is not None:
        colour, answer = (GREEN, "yes") if cell.same else (RED, "no")
        pen.text((x, below), f"same picture as AR: {answer}", TEXT_SIZE, colour, width=tile[0])
