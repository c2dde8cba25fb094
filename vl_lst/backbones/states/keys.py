"""Keys that identify what a frozen backbone reads.

The states of a frozen backbone depend only on the token ids that it reads and on the images, so
equal keys have equal states. A key is the first 16 bytes of a SHA-256 digest: among a thousand
million texts, the chance that any two share a key is below 2 in 10^21, and a table of keys stays
half as large as with whole digests.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

__all__ = ["KEY_BYTES", "input_key", "pair_key"]

KEY_BYTES = 16


def input_key(ids: Sequence[int], image_ids: Sequence[str] = ()) -> bytes:
    """Return the key of an encoder input.

    Args:
        ids: Token ids of the text, truncated, without padding.
        image_ids: Ids of the images, in order, for a backbone that reads images.
    """
    images = [image_id.encode() for image_id in image_ids]
    # Each length comes before its content, so that different inputs never have equal encodings.
    parts = [_numbers(len(ids), *ids), _numbers(len(images))]
    parts += [_numbers(len(image)) + image for image in images]
    return _key(b"input", b"".join(parts))


def pair_key(encoder_input: bytes, decoder_ids: Sequence[int]) -> bytes:
    """Return the key of an encoder input with an answer.

    Args:
        encoder_input: Key of the encoder input.
        decoder_ids: Token ids that the decoder reads, without padding: the start token, then the
            answer without its last token.
    """
    return _key(b"pair", encoder_input + _numbers(*decoder_ids))


def _numbers(*values: int) -> bytes:
    return np.asarray(values, "<u4").tobytes()


def _key(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha256(kind + b"\n" + content).digest()[:KEY_BYTES]
