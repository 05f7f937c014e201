"""Pictures from and to files, against ComfyUI's own rules."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mcsjd_core import InputError
from mcsjd_core.pipeline.image_files import in_natural_order, read_frames, to_image, to_pixels


def load_image(path) -> np.ndarray:
    """ComfyUI's Load Image, its rule for grey of 16 bits applied to whatever Pillow calls them."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):
            image = image.convert("I").point(lambda value: value * (1 / 255))
        return np.array(image.convert("RGB")).astype(np.float32) / 255


def some_pixels(shape, top=256, kind=np.uint8):
    return np.random.default_rng(0).integers(top, size=shape).astype(kind)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_as_exif_says(tmp_path, orientation):
    image, exif = Image.fromarray(some_pixels((6, 4, 3))), Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "photo.png", exif=exif)
    (frame,) = read_frames(tmp_path / "photo.png")
    assert frame.size == ((4, 6) if orientation < 5 else (6, 4))
    assert np.array_equal(to_pixels(frame).movedim(0, -1).numpy(), load_image(tmp_path / "photo.png"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "I;16"])
def test_pictures_of_every_kind_are_read_as_comfyui_reads_them(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(some_pixels((5, 7), 65536, np.uint16))
    else:
        image = Image.fromarray(some_pixels((5, 7, 3))).convert(mode)
    path = tmp_path / ("picture.tif" if mode in ("CMYK", "YCbCr") else "picture.png")
    image.save(path)
    try:
        wanted = load_image(path)
    except OSError:
        pytest.skip("this Pillow cannot read what it wrote, so neither can ComfyUI")  # 11.0 and YCbCr
    (frame,) = read_frames(path)
    assert np.array_equal(to_pixels(frame).movedim(0, -1).numpy(), wanted) and len(np.unique(wanted)) > 1


def test_what_is_transparent_lies_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_frames(tmp_path / "clear.png")[0].getpixel((0, 0)) == (255, 255, 255)


def test_fractions_are_cut_off_as_save_image_does():
    pixels = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    saved = np.clip(255.0 * pixels.movedim(0, -1).numpy(), 0, 255).astype(np.uint8)
    assert np.array_equal(np.array(to_image(pixels)), saved)
    assert to_image(torch.full((3, 1, 1), 1.0)).getpixel((0, 0)) == (255, 255, 255)


def test_what_was_read_is_written_unchanged():
    """No multiple of 1/255 falls to the code below it."""
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(np.array(to_image(to_pixels(Image.fromarray(pixels)))), pixels)


def test_numbers_in_names_count_as_numbers(tmp_path):
    names = ["1.png", "2.png", "10.png", "a1b2.png", "a1b10.png", "a02.png", "b.png"]
    assert [path.name for path in in_natural_order(tmp_path / name for name in sorted(names))] == names


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_picture_is_named(tmp_path, content):
    (tmp_path / "half.png").write_bytes(content)
    with pytest.raises(InputError, match=r"half\.png cannot be read as a picture"):
        read_frames(tmp_path / "half.png")


def test_a_picture_cut_short_is_named(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(some_pixels((64, 64, 3))).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:2000])
    with pytest.raises(InputError, match=r"cut\.png cannot be read as a picture"):
        read_frames(tmp_path / "cut.png")


@pytest.mark.parametrize(
    "error", [IndexError("index out of range"), EOFError(), struct.error("no integer"), TypeError("no size")]
)
def test_what_a_damaged_animation_raises_is_one_sentence(tmp_path, monkeypatch, error):
    """Pillow's decoders of GIF raise these in the middle of a file."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])

    def broken(image):
        raise error

    monkeypatch.setattr(ImageOps, "exif_transpose", broken)
    with pytest.raises(InputError, match=r"x\.gif cannot be read as a picture \(.*\); give a PNG"):
        read_frames(tmp_path / "x.gif")
