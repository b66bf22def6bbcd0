"""Make the pictures of docs/tutorial.md from the output of the demo: smaller, with few colours.

make demo
python tools/make_pictures.py demo_output
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image  # matplotlib brings it

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
# Width of each picture that a command of the demo wrote, number of colours, and how they are chosen: greys of an image
# by their frequency, a graph's lines so that no colour is lost.
PICTURES = {
    "diffuse.make_mask.png": (420, 28, Image.Quantize.MEDIANCUT),
    "diffuse.extract_response.png": (560, 32, Image.Quantize.MEDIANCUT),
    "diffuse.absolute.png": (960, 32, Image.Quantize.MAXCOVERAGE),
    "diffuse.compare.png": (600, 48, Image.Quantize.MAXCOVERAGE),
}


def main(demo: Path) -> None:
    """Write docs/images/*.png."""
    FOLDER.mkdir(exist_ok=True)
    for name, (width, colours, method) in PICTURES.items():
        picture = Image.open(demo / name).convert("RGB")
        size = (width, round(picture.height * width / picture.width))
        small = picture.resize(size, Image.Resampling.LANCZOS).quantize(colours, method, dither=0)
        path = FOLDER / name.removeprefix("diffuse.")
        small.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
