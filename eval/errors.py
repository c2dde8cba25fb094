"""What can be wrong with the files a user hands to an evaluator.

    InputError
    ├── FileFormatError      a file is not what its format says
    ├── OutputError          a file cannot be written
    └── PredictionError      predictions do not match the examples they answer

Each message says what was found, what was expected and what to do. The command line prints it
without a traceback and exits with code 1.
"""

__all__ = ["FileFormatError", "InputError", "OutputError", "PredictionError"]


class InputError(Exception):
    """A problem with what the user gave or has, not with the program."""


class FileFormatError(InputError):
    """A file cannot be read as its format demands."""


class PredictionError(InputError):
    """Predictions are missing, extra, duplicated or of the wrong type."""


class OutputError(InputError):
    """A file cannot be written where the user wants it."""
