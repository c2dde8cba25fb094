"""Repositories of the Hugging Face Hub by address, and its errors with what to do about them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from huggingface_hub import constants, errors, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from eval.errors import InputError

__all__ = [
    "NAME",
    "HubAddress",
    "create_repository",
    "explained_hub_errors",
    "hub_progress_bars",
    "parse_hub_address",
    "require_hub_token",
]

# OWNER/NAME, of ASCII characters; the Hub refuses parts that begin with a dot or a hyphen.
NAME = r"\w[\w.-]*/\w[\w.-]*"
# `Path` turns the two slashes of a prefix into one.
ADDRESS = re.compile(
    rf"(?P<prefix>hf:/{{1,2}})?(?P<name>{NAME})(@(?P<revision>.+))?",
    re.ASCII,
)
# The root of the errors of the HTTP client: `httpx`, or what a version of the library uses for it.
CLIENT_ERROR: type[Exception] = cast(type[Exception], HfHubHTTPError.__bases__[0])
# Errors of Xet, the Hub's protocol for large files; older versions have no class of their own.
XET_ERROR: type[Exception] = getattr(errors, "XetDownloadError", RuntimeError)
SIGN_IN = "sign in with `hf auth login`, or set HF_TOKEN"
AGAIN = "Run the same command again: it continues with what is missing."
MAX_REASON_LENGTH = 200


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A repository on the Hub.

    Args:
        name: OWNER/NAME.
        revision: Branch, tag or commit; `None` for the main branch.
        has_prefix: Whether it was given with `hf://`, and so can be no local path.
        is_dataset: Whether it is a dataset; otherwise a model.
    """

    name: str
    revision: str | None = None
    has_prefix: bool = False
    is_dataset: bool = False

    @property
    def page(self) -> str:
        """Address of the repository's page."""
        return f"{constants.ENDPOINT}/{'datasets/' if self.is_dataset else ''}{self.name}"

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def parse_hub_address(text: str) -> HubAddress | None:
    """Parse `OWNER/NAME`, `OWNER/NAME@REVISION`, or the same after `hf://`.

    Returns:
        The address; `None` if the text is not one.
    """
    found = ADDRESS.fullmatch(text)
    if found is None:
        return None
    return HubAddress(found["name"], found["revision"], has_prefix=found["prefix"] is not None)


def require_hub_token(action: str) -> None:
    """Refuse to begin what the Hub allows only to users who are signed in.

    Args:
        action: What is about to be done, for the message ("push to someone/run").

    Raises:
        InputError: There is no token.
    """
    if get_token() is None:
        raise InputError(f"cannot {action}: found no token of the Hugging Face Hub; {SIGN_IN}")


def create_repository(address: HubAddress, *, private: bool) -> None:
    """Create a repository unless it exists; call it within `explained_hub_errors`.

    Args:
        address: Repository.
        private: Whether only the owner may see it.

    Raises:
        InputError: It is to be private, but exists and is public.
    """
    # Here, because it takes a while, and not every command that parses addresses uploads.
    from huggingface_hub import HfApi

    api, kind = HfApi(), "dataset" if address.is_dataset else "model"
    api.create_repo(address.name, repo_type=kind, private=private or None, exist_ok=True)
    if private and not api.repo_info(address.name, repo_type=kind).private:
        raise InputError(
            f"{address.name} already exists and is public, so nothing was uploaded. Make it "
            f"private at {address.page}/settings, or choose another name."
        )


@contextmanager
def hub_progress_bars(*, show: bool) -> Iterator[None]:
    """Show or hide the progress bars of uploads and downloads in the block.

    Args:
        show: Whether to show them, unless the user has switched them off.
    """
    if show or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def explained_hub_errors(action: str, address: HubAddress) -> Iterator[None]:
    """Replace errors of the Hub within the block by one message that says what to do.

    Args:
        action: What is done in the block, for the message ("load someone/run").
        address: Repository.

    Raises:
        InputError: An error of the Hub, or of the connection to it.
    """
    try:
        yield
    except (CLIENT_ERROR, XET_ERROR, HFValidationError, OSError, RuntimeError) as error:
        # Threads of the library wrap the error of an upload.
        cause: BaseException | None = error
        while cause is not None:
            if (reason := _explain(cause, address)) is not None:
                raise InputError(f"cannot {action}: {reason}") from error
            cause = cause.__cause__
        if isinstance(error, OSError):  # such as a full disk
            raise
        raise InputError(
            f"cannot {action}: the transfer failed ({_reason(error)}). {AGAIN}"
        ) from error


def _explain(error: BaseException, address: HubAddress) -> str | None:
    """Return the reason and what to do; `None` if the error is not one of the Hub."""
    name = address.name
    if isinstance(error, HFValidationError):
        return f"{str(address)!r:.200} is no address on the Hub; expected OWNER/NAME"
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return _explain_missing_from_cache(error, address)
    if isinstance(error, GatedRepoError):
        return f"{name} is gated: open {address.page}, accept its conditions, and {SIGN_IN}"
    if isinstance(error, RepositoryNotFoundError):
        if get_token() is None:
            return (
                f"the Hub has no public repository {name}. Check the name; if it is private, "
                f"{SIGN_IN}."
            )
        return (
            f"the Hub has no repository {name} that your token may read. Check the name; if it is "
            "private, use a token of a user with access to it."
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{name} has no revision {address.revision!r}: it is misspelled or was deleted. "
            f"Expected a branch, a tag or a commit, as in {address.page}/commits/main."
        )
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, name)
    is_lost = isinstance(error, CLIENT_ERROR | ConnectionError | TimeoutError)
    # Such as a file that ended too early; errors of the operating system have a number.
    if is_lost or (isinstance(error, OSError) and error.errno is None):
        return f"the connection to {constants.ENDPOINT} failed ({_reason(error)}). {AGAIN}"
    return None


def _explain_missing_from_cache(error: BaseException, address: HubAddress) -> str:
    for cause in (error.__cause__, error.__context__):
        if isinstance(cause, HfHubHTTPError) and not isinstance(cause, LocalEntryNotFoundError):
            return _explain(cause, address) or _reason(cause)
    if constants.HF_HUB_OFFLINE:
        return (
            "offline mode is on (HF_HUB_OFFLINE), in which only what is in the cache "
            f"{constants.HF_HUB_CACHE} can be read, and {address} is not, or not completely. Turn "
            "it off."
        )
    return (
        f"{constants.ENDPOINT} cannot be reached, and {address} is not, or not completely, in the "
        f"cache {constants.HF_HUB_CACHE}. Connect to the network. {AGAIN}"
    )


def _explain_status(error: HfHubHTTPError, name: str) -> str:
    status = error.response.status_code
    if status == 401:
        return f"the Hub does not accept your token; {SIGN_IN}"
    if status == 403:
        return (
            f"your token may not do this with {name} (HTTP 403): use one with write access to "
            f"{name.partition('/')[0]}, or another OWNER"
        )
    if status == 429 or status >= 500:
        return f"the Hub is busy or has a problem (HTTP {status}). Wait a while. {AGAIN}"
    return f"the Hub refused the request (HTTP {status}): {_reason(error)}"


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:MAX_REASON_LENGTH]
