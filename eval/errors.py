"""Errors caused by user input.

    InputError
    ├── FileFormatError      a file does not follow its format
    ├── OutputError          a file cannot be written
    └── PredictionError      predictions do not match the examples

Each message says what was found, what was expected and what to do. The command line prints it
without a traceback and exits with code 1.
"""

__all__ = ["FileFormatError", "InputError", "OutputError", "PredictionError"]


class InputError(Exception):
    """A problem with the user's arguments or files, not with the program."""


class FileFormatError(InputError):
    """A file does not follow its format."""


class PredictionError(InputError):
    """Predictions are missing, extra, duplicated or of the wrong type."""


class OutputError(InputError):
    """A file cannot be written."""
