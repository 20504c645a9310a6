"""Pictures as text, for pages that need no other file."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

LONGEST = 480
"""Pixels of a picture's longer side on a page: enough for a card on a fine screen."""
_QUALITY = 82
_FINE = 90


def shown_picture(path: Path) -> np.ndarray:
    """A picture file as a person should see it: upright, in its own shape, not larger than a page needs.

    Returns:
        uint8, (height, width, 3), RGB.

    Raises:
        OSError: it is gone, or no picture.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * LONGEST, 2 * LONGEST))
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f"{path}: {error}") from error
    upright.thumbnail((LONGEST, LONGEST))
    return np.asarray(upright)


def picture_uri(picture: np.ndarray) -> str:
    """A picture, uint8 (height, width, 3), as the address of a JPEG that lies in the address itself."""
    image = Image.fromarray(picture)
    image.thumbnail((LONGEST, LONGEST))
    return _uri(_jpeg(image, _QUALITY, subsampling=2), "jpeg")


def figure_uri(path: Path, *, head: int = 0) -> tuple[str, int, int]:
    """A figure's PNG as such an address, with its width and height in pixels; as a JPEG where that is much smaller.

    Args:
        path: of the file.
        head: rows of pixels at the top that are left out: the page says what they say.

    Raises:
        OSError: it is gone, or no picture.
    """
    with Image.open(path) as image:
        shown = image.convert("RGB")
    shown = shown.crop((0, min(head, shown.height - 1), shown.width, shown.height))
    out = io.BytesIO()
    shown.save(out, "PNG", optimize=True)
    content, packed = out.getvalue(), _jpeg(shown, _FINE, subsampling=0)
    kind, content = ("jpeg", packed) if 2 * len(packed) < len(content) else ("png", content)
    return _uri(content, kind), *shown.size


def _jpeg(image: Image.Image, quality: int, *, subsampling: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, optimize=True, subsampling=subsampling)
    return out.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
