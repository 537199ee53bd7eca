"""Rendered letters A to Z: small pictures in several faces, sizes and positions, drawn when they are asked for.

A source for transfer that needs no file: DejaVu faces come with matplotlib. 38 to 52 pixels high on 64 x 64, shifted by up
to 2, turned by a standard deviation of 8 degrees, sheared, then averaged down to 16 x 16.
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from .._checks import Integer, OneOf
from .._rng import numpy_stream
from .images import ImageData, as_sequences
from .sequences import SequenceData
from .source import Source

FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif",
    "DejaVuSerif-Bold", "DejaVuSerif-Italic",
)  # fmt: skip
LICENCE = "DejaVu fonts licence (free)"


def letter_images(*, n: int = 3000, seed: int = 0) -> ImageData:
    """``n`` letters for training, and a tenth of that each for validation and tests, 16 x 16 in [0, 1], 26 classes."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    rng = numpy_stream(seed, "letters")
    total = n + 2 * max(26, n // 10)
    fonts: dict[tuple[str, int], Any] = {}
    pixels = np.empty((total, 1, 16, 16), np.uint8)
    y = np.arange(total, dtype=np.int64) % 26
    for i, label in enumerate(y):
        face, size = FACES[rng.integers(len(FACES))], int(rng.integers(38, 53))
        if (face, size) not in fonts:
            fonts[face, size] = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{face}.ttf", size)
        page = Image.new("L", (64, 64))
        shift = rng.integers(-2, 3, 2)
        ImageDraw.Draw(page).text(
            (32 + shift[0], 32 + shift[1]), string.ascii_uppercase[label], fill=255, font=fonts[face, size], anchor="mm"
        )
        angle, shear = np.deg2rad(rng.normal(0, 8)), rng.normal(0, 0.1)
        c, s = np.cos(angle), np.sin(angle)
        M = np.array([[c, -s + shear * c], [s, c + shear * s]])
        offset = np.array([32, 32]) - M @ np.array([32, 32])
        page = page.transform(
            (64, 64), Image.Transform.AFFINE, (*M[0], offset[0], *M[1], offset[1]), Image.Resampling.BILINEAR
        )
        pixels[i, 0] = np.asarray(page.resize((16, 16), Image.Resampling.BOX))
    rows, held = np.arange(total), max(26, n // 10)
    return ImageData(
        "letters",
        pixels,
        y,
        {"train": rows[:n], "valid": rows[n : n + held], "test": rows[n + held :]},
        tuple(string.ascii_uppercase),
        licence=LICENCE,
        provenance="drawn with Pillow from the faces that matplotlib brings",
    )


def letters(*, layout: str = "rows", n: int = 3000, seed: int = 0) -> SequenceData:
    """The letters read row by row."""
    return as_sequences(letter_images(n=n, seed=seed), layout)


SOURCES = {
    "letters": Source(
        letters,
        "rendered letters A to Z in eight faces",
        {"layout": OneOf(("pixels", "rows")), "n": Integer(low=52, high=1_000_000)},
        licence=LICENCE,
        images=letter_images,
    )
}
