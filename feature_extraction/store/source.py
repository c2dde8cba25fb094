"""Where imported features were downloaded from, in the attribute `source` of a feature file."""

from typing import Annotated

import h5py
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.run_files import first_problem
from feature_extraction.errors import StoreError
from feature_extraction.store.hdf5_text import read_text_attribute

__all__ = ["SOURCE_ATTRIBUTE", "Source", "describe_source", "read_source"]

SOURCE_ATTRIBUTE = "source"
MAX_SOURCE_LENGTH = 2**14


class Source(BaseModel):
    """Files on the Hugging Face Hub that features were imported from.

    Args:
        address: Address that the user gave, such as `hf://datasets/OWNER/NAME`.
        repository: Repository, `OWNER/NAME`.
        revision: Commit that the files were read from.
        files: Number of files.
        file_bytes: Their total size.
        files_sha256: SHA-256 of the lines `HASH  PATH` of the files, in order. HASH is the SHA-256
            of the file, or Git's hash of a small file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    repository: str
    revision: str
    files: Annotated[int, Field(ge=1)]
    file_bytes: Annotated[int, Field(ge=0)]
    files_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def read_source(file: h5py.File) -> Source | None:
    """Return the source in the attribute `source`; `None` if it is missing.

    Raises:
        StoreError: The attribute is not a valid source.
    """
    text = read_text_attribute(file, SOURCE_ATTRIBUTE, MAX_SOURCE_LENGTH)
    if text is None:
        return None
    try:
        return Source.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(
            f"the attribute {SOURCE_ATTRIBUTE!r} cannot be read: {first_problem(error)}. Import "
            "the features again."
        ) from None


def describe_source(source: Source | None) -> str:
    """Return a description of a source for messages."""
    return "local files" if source is None else f"{source.repository} at {source.revision[:12]}"
