"""Allowed values of feature settings. Cheap to import, because help texts list them."""

from typing import Literal

__all__ = ["Compression", "ExportFormat", "Layer", "Precision", "ResizeRule"]

Layer = Literal["grid", "pooled", "language"]
ResizeRule = Literal["squash", "letterbox", "center-crop"]
Precision = Literal["fp32", "bf16"]
Compression = Literal["none", "zstd"]
ExportFormat = Literal["h5", "arrow", "parquet"]
