"""Render the training pictures of the small text-to-image model: every colour emoji of one font, with captions.

Sources, fetched by hand once:

    apt-get install fonts-noto-color-emoji      # the font (SIL Open Font License 1.1), CBDT strikes of 136 x 128
    npm pack emojibase-data && tar xzf emojibase-data-*.tgz      # names and tags (MIT, from Unicode CLDR), in package/

Then: python -m training.emoji_data --emojibase package/en/data.json --out /path/to/emoji

Written to --out (G glyphs, M pictures):
    images.npy     uint8 [M, 128, 128, 3], RGB on white, memory-mappable
    variants.json  M rows {"glyph": index into glyphs.json, "kind": identity|shifted|recoloured, "colour": word or null}
    glyphs.json    G rows {"emoji", "name", "tags", "group", "subgroup", "skin", "split"}
    sheet.png      a random page of it, to look at
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm import tqdm

from .recolour import recoloured

SIZE = 128  # pixels, edge of a training picture
BOX = 120  # pixels, box the glyph is fitted into
STRIKE = 128  # pixels, design height of a CBDT strike; one common scale keeps a small square smaller than a large one
MAX_SHIFT = 5  # pixels
NUM_SHIFTED = 3  # pictures per glyph besides the identity and the recoloured ones
HELD_OUT = 0.1  # share of base glyphs that only measure the codec
FLIPPABLE = {"animals-nature", "food-drink"}  # elsewhere a mirror image changes meaning or breaks lettering
DEFAULT_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")

COLOUR_WORD = re.compile(
    r"\b(?:light |dark )?(?:red|orange|yellow|green|blue|purple|pink|brown|black|white|gr[ae]y)\b\s*"
)


# Captions

SPOKEN = {"’": "'", "&": " and ", ":": ",", "(": ", ", "#": "hash", "*": "asterisk"}


def clean(text: str) -> str:
    """Lower-case ASCII words; of punctuation only comma, hyphen and apostrophe survive."""
    for sign, word in SPOKEN.items():
        text = text.replace(sign, word)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"\s+", " ", re.sub(r"[^a-z0-9,'\- ]", " ", text))
    return re.sub(r"(?:\s*,)+", ",", text).strip(" ,-")


def glyph_name(label: str) -> str:
    """A CLDR label as a caption: `flag: Japan` is `flag of japan`, `waving hand: dark skin tone` gets a comma."""
    return clean(re.sub(r"^flag: ", "flag of ", re.sub(r"^keycap: ", "keycap ", label)))


def glyph_tags(tags: list[str], name: str) -> list[str]:
    """CLDR keywords as caption words, in order, without emoticons, single letters and what the name says already."""
    words = dict.fromkeys(clean(tag) for tag in tags)
    return [word for word in words if len(word) > 1 and word not in name.split(", ")]


def without_colour(name: str) -> str:
    """The name with its colour words taken out: `light blue heart` is `heart`."""
    return COLOUR_WORD.sub("", name).strip(" ,-")


def recoloured_name(glyph: dict, variant: dict) -> str:
    """The name of a recoloured picture: `light blue heart` in green is `green heart`."""
    return f"{variant['colour']} {without_colour(glyph['name'])}"


def caption(glyph: dict, variant: dict, rng: np.random.Generator) -> str:
    """One training caption for a row of glyphs.json and one of variants.json.

    90 in 100 the name; 6 the name and one to three tags; 4 two tags. Two tags keep what follows the name's first
    comma, so that a skin tone is never lost. A recoloured picture is always `<colour> <name>`: its tags may name the
    old colour.
    """
    name, tags = glyph["name"], glyph["tags"]
    if variant["colour"]:
        return recoloured_name(glyph, variant)
    form = rng.choice(["name", "name and tags", "tags"], p=[0.9, 0.06, 0.04])
    if form == "name" or len(tags) < 2:
        return name
    if form == "name and tags":
        return ", ".join([name, *rng.permutation(tags)[: rng.integers(1, 4)]])
    _, comma, detail = name.partition(", ")
    return " ".join(rng.permutation(tags)[:2]) + comma + detail


# Glyphs


class ColourFont:
    """Looks up the colour bitmap of an emoji sequence in a CBDT font, as a shaper would."""

    def __init__(self, path: Path):
        from fontTools.ttLib import TTFont  # needed to render only; training loads without it

        font = TTFont(require(path, "the font; install the Debian package fonts-noto-color-emoji or pass --font"))
        if "CBDT" not in font:
            raise ValueError(
                f"{path} has no CBDT table, but only bitmap strikes are read; "
                "pass --font a CBDT build, such as NotoColorEmoji.ttf of the Debian package fonts-noto-color-emoji."
            )
        self.cmap = font.getBestCmap()
        self.strikes = font["CBDT"].strikeData[0]
        self.ligatures = read_ligatures(font["GSUB"].table)

    def png(self, codepoints: list[int]) -> bytes | None:
        """PNG bytes of the one glyph that shows the whole sequence, or None if the font needs several or has none."""
        names = tuple(self.cmap.get(point) for point in codepoints)
        glyph = names[0] if len(names) == 1 else self.ligatures.get(names)
        return self.strikes[glyph].imageData if glyph in self.strikes else None


def read_ligatures(gsub) -> dict[tuple[str, ...], str]:
    """Glyph names of every ligature of the `ccmp` feature, as {components: ligature}. A match of full length is the
    longest, hence the one a shaper takes."""
    features = [record.Feature for record in gsub.FeatureList.FeatureRecord if record.FeatureTag == "ccmp"]
    lookups = [gsub.LookupList.Lookup[index] for feature in features for index in feature.LookupListIndex]
    tables = [table for lookup in lookups for table in lookup.SubTable if lookup.LookupType == 4]
    return {
        (first, *ligature.Component): ligature.LigGlyph
        for table in tables
        for first, ligatures in table.ligatures.items()
        for ligature in ligatures
    }


def require(path: Path, what: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: it should be {what}.")
    return path


def to_codepoints(hexcode: str) -> list[int]:
    """`1F3F3-FE0F-200D-1F308` as integers, without FE0F: that one asks for colour and draws nothing."""
    return [point for point in (int(part, 16) for part in hexcode.split("-")) if point != 0xFE0F]


def split_of(base_hexcode: str, seed: int) -> str:
    """`held_out` for a seeded tenth of the base glyphs; skin tones follow their base."""
    digest = hashlib.sha256(f"{seed}:{base_hexcode}".encode()).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64 else "train"


def make_record(entry: dict, base: dict, groups: dict, seed: int) -> dict:
    """A row of glyphs.json from an emojibase entry; `base` is the entry itself or the one whose skin tone it changes."""
    name = glyph_name(entry["label"])
    return {
        "emoji": entry["emoji"],
        "name": name,
        "tags": glyph_tags(base.get("tags", []), name),
        "group": groups["groups"][str(entry["group"])],
        "subgroup": groups["subgroups"][str(entry["subgroup"])],
        "skin": entry is not base,
        "split": split_of(base["hexcode"], seed),
    }


def collect_glyphs(font: ColourFont, emojibase: Path, seed: int) -> tuple[list[dict], list[bytes], list[str]]:
    """Records, PNG bytes and hexcodes of every emoji that the font shows as one glyph of its own, in CLDR order.

    Of emoji that share a bitmap the shortest name stays (`flag of norway`, not `flag of bouvet island`): a copy could
    sit on both sides of the split.
    """
    package = "of the npm package emojibase-data; run `npm pack emojibase-data`, unpack all of it and pass --emojibase"
    entries = json.loads(require(emojibase, f"en/data.json {package}").read_text())
    groups = json.loads(
        require(emojibase.parent.parent / "meta/groups.json", f"meta/groups.json {package}").read_text()
    )
    found: dict[bytes, tuple[dict, str]] = {}
    for base in sorted((entry for entry in entries if "group" in entry), key=lambda entry: entry["order"]):
        for entry in [base, *base.get("skins", [])]:
            png = font.png(to_codepoints(entry["hexcode"]))
            if png is None:
                continue
            record = make_record(entry, base, groups, seed)
            if png not in found or len(record["name"]) < len(found[png][0]["name"]):
                found[png] = record, entry["hexcode"]
    return [record for record, _ in found.values()], list(found), [hexcode for _, hexcode in found.values()]


# Pictures


def open_art(png: bytes) -> Image.Image:
    """RGBA strike cut to what is visible of it."""
    art = Image.open(io.BytesIO(png)).convert("RGBA")
    return art.crop(art.getchannel("A").getbbox())


@dataclass(frozen=True)
class Placement:
    """How a glyph sits in its picture: scale relative to the 120-pixel box, shift in pixels, mirrored or not."""

    scale: float = 1.0
    dx: int = 0
    dy: int = 0
    flip: bool = False


def random_placement(flippable: bool, rng: np.random.Generator) -> Placement:
    dx, dy = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=2)
    return Placement(rng.uniform(0.88, 1.0), int(dx), int(dy), flippable and bool(rng.random() < 0.5))


def place(art: Image.Image, placement: Placement) -> np.ndarray:
    """uint8 [128, 128, 3]: the RGBA art on white, centred but for the placement's shift."""
    art = ImageOps.mirror(art) if placement.flip else art
    factor = placement.scale * BOX / max(STRIKE, *art.size)
    art = art.resize([max(1, round(edge * factor)) for edge in art.size], Image.Resampling.LANCZOS)
    picture = Image.new("RGBA", (SIZE, SIZE), "white")
    picture.alpha_composite(art, ((SIZE - art.width) // 2 + placement.dx, (SIZE - art.height) // 2 + placement.dy))
    return np.asarray(picture.convert("RGB"))


# The set


def render_glyph(glyph: dict, png: bytes, hexcode: str, seed: int) -> tuple[list[np.ndarray], list[dict]]:
    """Every picture of a glyph, uint8 [128, 128, 3] each, and as many rows of kind and colour.

    The random numbers depend on seed and code points only, so the order of glyphs does not matter.
    """
    rng = np.random.default_rng([seed, *to_codepoints(hexcode)])
    art = open_art(png)
    flippable = glyph["group"] in FLIPPABLE
    placements = [Placement()] + [random_placement(flippable, rng) for _ in range(NUM_SHIFTED)]
    recolours = recoloured(art, glyph, rng)
    pictures = [place(art, placement) for placement in placements]
    pictures += [place(result, Placement()) for result in recolours.values()]
    kinds = ["identity"] + ["shifted"] * NUM_SHIFTED + ["recoloured"] * len(recolours)
    colours = [None] * len(placements) + list(recolours)
    return pictures, [{"kind": kind, "colour": colour} for kind, colour in zip(kinds, colours, strict=True)]


def write_set(out: Path, font_path: Path, emojibase: Path, seed: int) -> None:
    """Render everything into the folder `out`; the same arguments give the same bytes."""
    glyphs, pngs, hexcodes = collect_glyphs(ColourFont(font_path), emojibase, seed)
    pictures, variants = [], []
    for index in tqdm(range(len(glyphs)), desc="emoji", unit="glyph"):
        drawn, rows = render_glyph(glyphs[index], pngs[index], hexcodes[index], seed)
        pictures += drawn
        variants += [{"glyph": index, **row} for row in rows]
    out.mkdir(parents=True, exist_ok=True)
    shape = (len(pictures), SIZE, SIZE, 3)
    images = np.lib.format.open_memmap(out / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    for index, picture in enumerate(pictures):  # one by one: np.stack would hold the gigabyte twice
        images[index] = picture
    images.flush()
    (out / "variants.json").write_text(json.dumps(variants))
    (out / "glyphs.json").write_text(json.dumps(glyphs, ensure_ascii=False, indent=0))


@dataclass(frozen=True)
class EmojiSet:
    """A rendered set: images uint8 [M, 128, 128, 3] (memory-mapped), G glyphs, M variants; rows as in the docstring above."""

    images: np.ndarray
    glyphs: list[dict]
    variants: list[dict]

    @property
    def glyph_of(self) -> list[dict]:
        """The glyph record of every variant, [M]."""
        return [self.glyphs[variant["glyph"]] for variant in self.variants]


def load(path: Path | str) -> EmojiSet:
    """Open what write_set wrote to the folder `path`; pictures are read from disk when touched."""
    path = Path(path)
    require(path / "images.npy", "a rendered set; run python -m training.emoji_data with --out set to this folder")
    glyphs, variants = (json.loads((path / name).read_text()) for name in ("glyphs.json", "variants.json"))
    return EmojiSet(np.load(path / "images.npy", mmap_mode="r"), glyphs, variants)


def contact_sheet(emoji: EmojiSet, indices: list[int], rng: np.random.Generator, columns: int = 12) -> Image.Image:
    """The pictures at `indices` in rows of `columns`, each with a drawn caption below it."""
    cell_width, cell_height = SIZE + 12, SIZE + 44
    sheet = Image.new("RGB", (columns * cell_width, math.ceil(len(indices) / columns) * cell_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for cell, index in enumerate(indices):
        row, column = divmod(cell, columns)
        variant = emoji.variants[index]
        lines = re.findall(r".{1,22}(?:\s|$)|\S{22}", caption(emoji.glyphs[variant["glyph"]], variant, rng))[:3]
        sheet.paste(Image.fromarray(emoji.images[index]), (column * cell_width + 6, row * cell_height))
        draw.multiline_text(
            (column * cell_width + 4, row * cell_height + SIZE), "\n".join(lines), "black", font, spacing=1
        )
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the emoji training set.")
    parser.add_argument("--font", type=Path, default=DEFAULT_FONT, help="CBDT colour font")
    parser.add_argument("--emojibase", type=Path, required=True, help="en/data.json of the npm package emojibase-data")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, about 1 GB")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        write_set(args.out, args.font, args.emojibase, args.seed)
    except FileNotFoundError as missing:
        parser.error(str(missing))
    emoji, rng = load(args.out), np.random.default_rng(args.seed)
    indices = rng.choice(len(emoji.images), size=96, replace=False).tolist()
    contact_sheet(emoji, indices, rng).save(args.out / "sheet.png")
    print(f"{len(emoji.glyphs)} glyphs, {len(emoji.images)} pictures in {args.out}")


if __name__ == "__main__":
    main()
