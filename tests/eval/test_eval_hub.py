"""Addresses on the Hugging Face Hub, and one message for each of its errors."""

from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, snapshot_download
from loopback_hub import LoopbackHub, running_hub
from loopback_hub_server import CHUNK

from eval.errors import InputError
from eval.hub import HubAddress, explained_hub_errors, parse_hub_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alice/run", HubAddress("alice/run")),
        ("alice/run@v1.0", HubAddress("alice/run", "v1.0")),
        ("alice/run@refs/pr/1", HubAddress("alice/run", "refs/pr/1")),
        ("hf://alice/run", HubAddress("alice/run", has_prefix=True)),
        (str(Path("hf://alice/run@a")), HubAddress("alice/run", "a", has_prefix=True)),
        ("_me/_run", HubAddress("_me/_run")),
        ("-a/b", None),
        ("a/.b", None),
        ("run", None),
        ("/alice/run", None),
        ("./alice", None),
        ("../run", None),
        ("alice/run/", None),
        ("runs/vqa/seed0", None),
        ("alice/run@", None),
        ("alice\n/run", None),
        ("alice/ru\u0435n", None),  # a Cyrillic letter
    ],
)
def test_addresses(text: str, expected: HubAddress | None) -> None:
    assert parse_hub_address(text) == expected


def download(name: str, revision: str | None = None) -> None:
    address = HubAddress(name, revision)
    with explained_hub_errors(f"load {address}", address):
        snapshot_download(name, revision=revision)


def message_of(name: str, revision: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        download(name, revision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_repositories_that_cannot_be_read(tmp_path: Path) -> None:
    with running_hub(tmp_path, token=None) as hub:
        hub.add("someone/private", {"a": b"1"}, private=True)
        hub.add("someone/gated", {"a": b"1"}, gated=True)
        for name in ("someone/private", "someone/missing"):
            assert f"no public repository {name}" in message_of(name)
            assert "hf auth login" in message_of(name)
        assert "accept its conditions" in message_of("someone/gated")


def test_a_user_with_a_token_is_not_told_to_sign_in(hub: LoopbackHub) -> None:
    hub.add("other/private", {"a": b"1"}, private=True)
    message = message_of("other/private")
    assert "your token may read" in message
    assert "hf auth login" not in message


def test_a_token_that_the_hub_does_not_accept(tmp_path: Path) -> None:
    with running_hub(tmp_path, token="hf_wrong"):
        assert "does not accept your token" in message_of("someone/run")


def test_a_revision_that_is_gone(hub: LoopbackHub) -> None:
    hub.add("someone/run", {"a": b"1"})
    assert "has no revision 'gone'" in message_of("someone/run", "gone")


def test_a_dropped_download_resumes_where_it_stopped(hub: LoopbackHub) -> None:
    content = b"\0" * 500_000 + b"1" * 500_000
    hub.add("someone/run", {"a.safetensors": content})
    hub.drop_next("GET", "large-files", after_bytes=300_000)
    with suppress(InputError):  # older versions of the library resume in the next call
        download("someone/run")
    download("someone/run")
    assert hub.count("GET", "large-files") == 2
    [resumed] = hub.ranges
    assert 300_000 - CHUNK < int(resumed[6:-1]) <= 300_000


def test_a_lost_connection(hub: LoopbackHub) -> None:
    hub.add("someone/run", {"a": b"1"})
    hub.drop_next("GET", "/api/models/someone/run")
    message = message_of("someone/run")
    assert "the connection to http://127.0.0.1" in message
    assert "continues" in message


def test_no_connection_and_offline_mode(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("someone/run", {"a": b"1"})
    hub.add("someone/other", {"a": b"1"})
    download("someone/run")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        download("someone/run")
        assert "offline mode is on (HF_HUB_OFFLINE)" in message_of("someone/other")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    download("someone/run")
    assert "http://127.0.0.1:1 cannot be reached" in message_of("someone/other")


def test_errors_that_are_not_of_the_hub_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), explained_hub_errors("x", HubAddress("a/b")):
        (tmp_path / "nothing").read_bytes()
    with pytest.raises(KeyError), explained_hub_errors("x", HubAddress("a/b")):
        raise KeyError("a")


def test_no_right_to_write(hub: LoopbackHub) -> None:
    address = HubAddress("other/run")
    with pytest.raises(InputError, match="write access to other"):
        with explained_hub_errors("push", address):
            HfApi().create_repo("other/run")
