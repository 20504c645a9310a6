"""Pictures from files and bytes, whatever their format: always RGB, upright and square."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vltune.errors import BadInput, NotFound

MAX_PIXELS = 89_000_000
"""Largest picture, width times height. Pillow itself warns from 89.5 million on, and refuses twice as many."""
MIN_SIDE = 8
"""Smallest width and height, in pixels."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Endings by which a source is the path of a picture, and not a text."""

# Named one by one, because Pillow would also try formats that start other programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(source: str | Path | bytes, *, size: int) -> np.ndarray:
    """Decodes a picture and resizes it, whole, to a square: bilinear with antialiasing.

    EXIF orientation is applied, the first frame of an animation is taken, transparency lies on white, and 16 bits
    of grey are scaled to 8.

    Args:
        source: path of a file, or its content.
        size: side of the result in pixels.

    Returns:
        uint8 of shape (size, size, 3), RGB.

    Raises:
        NotFound: there is no such file.
        BadInput: the file is no picture, is damaged, or is too large or too small.
    """
    name = f"picture of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    content = source if isinstance(source, bytes) else _content(Path(source))
    try:
        with _opened(io.BytesIO(content), name) as image:
            # JPEG can be decoded at 1/2, 1/4 and 1/8; twice the size asked for leaves room for a clean resize.
            image.draft(None, (2 * size, 2 * size))
            image.load()
            # Asked only now: TIFF is turned, and forgets its orientation, while it is loaded.
            orientation = _orientation(image)
            small = _rgb(image, name).resize((size, size), Image.Resampling.BILINEAR)
    except (BadInput, MemoryError):
        raise
    except Exception as error:
        # Decoders raise whatever damaged bytes lead them to: OSError, SyntaxError, struct.error, IndexError, ...
        raise BadInput(f"{name}: is damaged ({_one_line(error)}); replace or remove it.") from error
    # On a square, turning after resizing gives the same as turning before, and is cheaper.
    return np.array(small.transpose(_TURNS[orientation]) if orientation in _TURNS else small)


def picture_shape(path: str | Path) -> tuple[int, int]:
    """Width and height of a picture as a person sees it, from its header alone.

    Raises:
        NotFound: there is no such file.
        BadInput: the file is no picture, or is too large or too small.
    """
    try:
        with Path(path).open("rb") as file, _opened(file, str(path)) as image:
            width, height = image.size
            # Pillow tells a TIFF's size turned already.
            turned = image.format != "TIFF" and _orientation(image) >= 5
            return (height, width) if turned else (width, height)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise _unread(Path(path), error) from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise _unread(path, error) from error


def _unread(path: Path, error: Exception) -> BadInput:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{path}: there is no such picture; check the path.")
    return BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); check the file.")


def _opened(file: io.BytesIO | io.BufferedReader, name: str) -> Image.Image:
    start = file.read(64)
    if not start:
        raise BadInput(f"{name}: is empty; replace or remove it.")
    file.seek(0)
    try:
        image = Image.open(file, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput(f"{name}: is too large; at most {MAX_PIXELS:,} pixels are allowed.") from error
    except UnidentifiedImageError as error:
        what = "a web page, not a picture" if start.lstrip()[:1] == b"<" else "not a picture that can be read"
        raise BadInput(f"{name}: is {what} (one of {', '.join(_FORMATS)}); replace or remove it.") from error
    except MemoryError:
        raise
    except Exception as error:
        # As above: the header may be as damaged as the rest.
        raise BadInput(f"{name}: is damaged ({_one_line(error)}); replace or remove it.") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadInput(f"{name}: is too large, {width}x{height}; at most {MAX_PIXELS:,} pixels are allowed.")
    if min(width, height) < MIN_SIDE:
        raise BadInput(f"{name}: is too small, {width}x{height}; each side needs at least {MIN_SIDE} pixels.")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        # Damaged EXIF beside a sound picture is common; such a picture counts as upright.
        return 1


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float32)
        return Image.fromarray((grey.clip(0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadInput(f"{name}: holds fractions, whose range is unknown; save it with 8 or 16 bits.")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
