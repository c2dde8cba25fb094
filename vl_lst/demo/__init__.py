"""The embedded default: a shapes world and a small CLIP and T5 pretrained on it.

Nothing here is fetched: pictures and questions are made from seeds, and the pretrained weights
lie in `assets/` (see `ASSETS`), made by `python -m vl_lst.demo.pretrain_clip` and
`python -m vl_lst.demo.pretrain_t5`.
"""

from pathlib import Path

__all__ = ["ASSETS", "CLIP_FOLDER", "T5_FOLDER"]

ASSETS = Path(__file__).resolve().parent / "assets"
CLIP_FOLDER = ASSETS / "clip"
T5_FOLDER = ASSETS / "t5"
