"""``python -m lic_da.runtime STREAM IMAGE --pack DIR``: decode where nothing but the runtime is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from lic_da.errors import UserError
from lic_da.io.bitstream import Stream
from lic_da.io.files import output_path
from lic_da.runtime import MODES, Decoder


def main() -> int:
    """Decode one stream; mistakes of the user end in one line and with exit code 2."""
    parser = argparse.ArgumentParser(
        "python -m lic_da.runtime", description="Decode a .lic stream."
    )
    parser.add_argument("stream", type=Path, help="a .lic file")
    parser.add_argument("image", type=Path, help="the PNG file to write; -: standard output")
    parser.add_argument("--pack", type=Path, required=True, help="what lic-da export has written")
    parser.add_argument("--mode", "--blend", dest="mode", choices=MODES, help="default: the pack's")
    parser.add_argument("--domain", help="the domain, for --mode oracle")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    asked = parser.parse_args()
    try:
        if asked.image.is_file() and not asked.overwrite:
            raise UserError(f"{asked.image} exists; --overwrite replaces it.")
        if asked.image.suffix.lower() not in (".png", ""):
            raise UserError(f"{asked.image} should end in .png: that is what is written.")
        decoder = Decoder(asked.pack)
        pixels = decoder.decompress(Stream.read(asked.stream), asked.mode, asked.domain)
        with output_path(asked.image) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
