"""Decoding: every mode gives RGB, upright and square; what is no picture is refused with file and reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from trainables.parts.pictures import picture_shape, read_picture
from vltune.errors import BadInput, NotFound


def _saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _quarters() -> Image.Image:
    """Red and green over blue and white: each corner says where it is."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:20, :40], pixels[:20, 40:], pixels[20:, :40], pixels[20:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 255
    return Image.fromarray(pixels)


def _corners(picture: np.ndarray) -> list[str]:
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "white", (0, 0, 0): "black"}
    return [names[tuple((picture[y, x] > 127).astype(int).tolist())] for y in (1, -2) for x in (1, -2)]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_formats(kind: str) -> None:
    picture = read_picture(_saved(_quarters(), kind), size=16)
    assert picture.shape == (16, 16, 3)
    assert picture.dtype == np.uint8
    assert _corners(picture) == ["red", "green", "blue", "white"]


@pytest.mark.parametrize(
    ("mode", "kind", "corners"),
    [
        ("CMYK", "JPEG", ["red", "green", "blue", "white"]),
        ("CMYK", "TIFF", ["red", "green", "blue", "white"]),
        ("P", "PNG", ["red", "green", "blue", "white"]),
        ("RGBA", "PNG", ["red", "green", "blue", "white"]),
        ("L", "JPEG", ["black", "white", "black", "white"]),
        ("LA", "PNG", ["black", "white", "black", "white"]),
        ("1", "PNG", ["black", "white", "black", "white"]),
    ],
)
def test_modes(mode: str, kind: str, corners: list[str]) -> None:
    image = _quarters()
    if mode in ("L", "LA", "1"):
        image = image.convert("L").point([0] * 128 + [255] * 128).convert(mode)
    else:
        image = image.convert(mode)
    assert _corners(read_picture(_saved(image, kind), size=16)) == corners


def test_transparency_lies_on_white() -> None:
    image = _quarters().convert("RGBA")
    image.paste((10, 10, 10, 0), (0, 0, 40, 20))
    assert _corners(read_picture(_saved(image), size=16))[0] == "white"
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert read_picture(_saved(palette, transparency=0), size=8).min() == 255


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    content = _saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert _corners(read_picture(content, size=8)) == ["red"] * 4


def test_sixteen_bits_are_scaled() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(256, 0)
    picture = read_picture(_saved(Image.fromarray(ramp)), size=256)
    np.testing.assert_allclose(picture[0, :, 0], ramp[0] / 257, atol=1)
    assert (picture[..., 0] == picture[..., 2]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind: str, orientation: int) -> None:
    image = _quarters()
    exif = image.getexif()
    exif[0x0112] = orientation
    content = _saved(image, kind, exif=exif)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    got = read_picture(content, size=16)
    np.testing.assert_allclose(got, np.asarray(want.resize((16, 16), Image.Resampling.BILINEAR)), atol=2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("orientation", "shape"), [(1, (80, 40)), (3, (80, 40)), (6, (40, 80)), (8, (40, 80))])
def test_shape_is_seen_upright(tmp_path: Path, kind: str, orientation: int, shape: tuple[int, int]) -> None:
    image = _quarters()
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / "a.picture"
    path.write_bytes(_saved(image, kind, exif=exif))
    assert picture_shape(path) == shape


def test_broken_exif_counts_as_upright() -> None:
    content = _saved(_quarters(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert _corners(read_picture(content, size=16)) == ["red", "green", "blue", "white"]


@pytest.mark.shared_data
def test_reduced_decoding_stays_close_to_the_full_one(shared_data: Path) -> None:
    for path in sorted((shared_data / "flickr8k" / "Images").iterdir())[:20]:
        full = Image.open(path).convert("RGB").resize((96, 96), Image.Resampling.BILINEAR)
        difference = np.abs(read_picture(path, size=96).astype(int) - np.asarray(full))
        assert difference.mean() < 3, path


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


_JPEG = _saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<html><body>404</body></html>", "a web page"),
        (b"not a picture at all", "not a picture"),
        (_JPEG[: len(_JPEG) // 2], "damaged"),
        (_JPEG[:30], "damaged|not a picture"),
        (_saved(_quarters())[:100], "damaged"),
        (_png_header(20000, 20000), "too large"),
        (_png_header(10000, 9000), "too large"),
        (_saved(Image.new("RGB", (1, 1))), "too small, 1x1"),
        (_saved(Image.new("F", (20, 20)), "TIFF"), "fractions"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    for source, name in ((path, str(path)), (content, f"picture of {len(content)} bytes")):
        with pytest.raises(BadInput, match=reason) as caught:
            read_picture(source, size=16)
        assert str(caught.value).startswith(f"{name}: ")
        assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such picture"):
        read_picture(tmp_path / "no.jpg", size=16)
    with pytest.raises(NotFound, match="no such picture"):
        picture_shape(tmp_path / "no.jpg")
    with pytest.raises(BadInput, match="cannot be read"):
        read_picture(tmp_path, size=16)


@pytest.mark.filterwarnings("ignore")
def test_whatever_the_damage_it_is_decoded_or_refused() -> None:
    rng = np.random.default_rng(0)
    originals = [_JPEG, _saved(_quarters()), _saved(_quarters(), "GIF"), _saved(_quarters(), "TIFF")]
    for number in range(300):
        content = bytearray(originals[number % len(originals)])
        for place in rng.integers(0, len(content), 1 + number % 7):
            content[place] = rng.integers(256)
        try:
            assert read_picture(bytes(content), size=8).shape == (8, 8, 3)
        except BadInput as error:
            assert "\n" not in str(error)  # noqa: PT017
