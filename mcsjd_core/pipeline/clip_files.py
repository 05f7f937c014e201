"""Videos from and to files: pictures and animations by Pillow, MP4 and the like by PyAV, which is imported when it is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError, first_line
from .image_files import frames_of, in_natural_order, to_image, to_pixels

VIDEO_SUFFIXES = (".mp4", ".webp")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
WEBP_QUALITY = 90  # of 100


def _av():
    try:
        import av

        av.open  # noqa: B018 - a stand-in of the same name has nothing in it
    except (ImportError, AttributeError):
        raise InputError(
            "MP4 files need the package av: install it with `pip install av`, or use a .webp file."
        ) from None
    return av


# -- reading -----------------------------------------------------------------------------------------------------------


def read_clip(paths: list[Path], most: int) -> tuple[Tensor, int]:
    """The last `most` frames [T, 3, H, W] in 0..1 of files in the order given, and how many frames they have in all.

    Files are pictures, animations, videos, or folders of pictures. All must have one size. Transparent areas become white. No
    more than `most` frames are held at a time.
    """
    files = [file for path in paths for file in (_pictures_in(path) if path.is_dir() else [path])]
    kept: deque[Image.Image] = deque(maxlen=most)
    count, sizes = 0, set()
    for frame in (frame for file in files for frame in _frames(file)):
        kept.append(frame)
        sizes.add(frame.size)
        count += 1
    if len(sizes) > 1:
        named = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise InputError(f"The frames of a clip must all have the same size, got {named}; scale them to one size.")
    return torch.stack([to_pixels(frame) for frame in kept]), count


def _pictures_in(folder: Path) -> list[Path]:
    files = in_natural_order(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    if not files:
        raise InputError(f"{folder} holds no pictures; name a folder with the frames as PNG or JPEG files.")
    return files


def _frames(file: Path) -> Iterable[Image.Image]:
    if file.suffix.lower() not in PICTURES:
        return _video_frames(file)
    return frames_of(file)


def _video_frames(file: Path) -> Iterator[Image.Image]:
    av, is_empty = _av(), True
    try:
        with av.open(str(file)) as container:
            for frame in container.decode(video=0):
                is_empty = False
                yield frame.to_image().convert("RGB")
    except (OSError, ValueError, IndexError, EOFError, av.error.FFmpegError) as error:
        reason = first_line(error)
        raise InputError(f"{file} cannot be read as a video ({reason}); give an MP4 file, or pictures.") from None
    if is_empty:
        raise InputError(f"{file} holds no frames; give an MP4 file, or pictures.")


# -- writing -----------------------------------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """Raise InputError if a package is missing that `write_clip` would need for such a file."""
    if path.suffix.lower() == ".mp4":
        _av()


def write_clip(path: Path, frames: Tensor, frame_rate: float) -> None:
    """Frames [T, 3, H, W] in 0..1 as an animated WebP, or as H.264 in MP4 (even width and height), by the file's suffix."""
    images = [to_image(frame) for frame in frames]
    if path.suffix.lower() == ".webp":
        options: dict[str, Any] = {"duration": round(1000 / frame_rate), "loop": 0, "quality": WEBP_QUALITY}
        images[0].save(path, save_all=True, append_images=images[1:], **options)
    else:
        _write_mp4(path, images, frame_rate)


def _write_mp4(path: Path, images: list[Image.Image], frame_rate: float) -> None:
    av = _av()
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        stream = container.add_stream("h264", rate=Fraction(frame_rate).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = *images[0].size, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
