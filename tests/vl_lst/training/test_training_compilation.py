"""Compilation of the blocks that train; without CUDA, by a backend that generates no code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_backbones import tiny_backbones
from tiny_batches import tiny_batch
from tiny_methods import attach
from tiny_run import TinyWorld

from vl_lst.errors import RecipeError
from vl_lst.training.compilation import compile_blocks, uncompiled
from vl_lst.training.saved_bytes import saved_bytes_by_part
from vl_lst.training.session import train
