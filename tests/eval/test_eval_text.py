"""Counts, sizes in bytes, escaped characters and similar names, as text for people."""

import html

import pytest
from markdown_it import MarkdownIt

from eval.text import (
    counted,
    did_you_mean,
    escape_controls,
    escape_markdown,
    format_bytes,
    is_utf8,
    unknown_name,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1000.4, "1,000 bytes"),
        (1023, "1,023 bytes"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**20, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (3 * 2**80, "3,145,728.0 EiB"),
    ],
)
def test_sizes_have_a_fitting_unit(size: float, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (16 * 2**10, "16 KiB"), (2.5 * 2**20, "2.5 MiB")]
)
def test_short_sizes_have_no_trailing_zeros(size: float, text: str) -> None:
    assert format_bytes(size, short=True) == text


def test_control_characters_are_escaped_but_not_line_feeds_and_tabs() -> None:
    assert escape_controls("a\x1b[31m\rb\u202ec\x9f\n\td") == r"a\x1b[31m\rb\u202ec\x9f" + "\n\td"


@pytest.mark.parametrize(
    "text",
    [
        "&lt; and &copy;",
        "[a](http://a.b) ![c](d)",
        "<b>x</b> `c` **d** _e_ ~~f~~",
        "# a | b \\ c",
        "a\n\n- b\t c",
        "user@host",
    ],
)
def test_markdown_shows_escaped_text_as_it_is(text: str) -> None:
    page = MarkdownIt("gfm-like", {"linkify": False}).render(escape_markdown(text))
    assert page == f"<p>{html.escape(' '.join(text.split()))}</p>\n"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("http://a.b", r"http\://a.b"),
        ("WWW.evil.com", r"WWW\.evil.com"),
        ("user@host", r"user\@host"),
        ("$x^2$", r"\$x\^2\$"),
        ("\x1b[1m", r"\\x1b\[1m"),
    ],
)
def test_links_and_formulas_that_some_programs_find_are_escaped(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


@pytest.mark.parametrize(
    "text", ["t5-base", "google/flan-t5-base", "bf16, 0.01", "a.b-c", "cpu: 8 (x86), now!"]
)
def test_usual_names_are_not_escaped(text: str) -> None:
    assert escape_markdown(text) == text


def test_bytes_of_a_file_name_that_are_not_utf8_are_found() -> None:
    assert is_utf8("½ 😀")
    assert not is_utf8(b"caf\xe9".decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    ("name", "known", "end"),
    [
        ("lroa", ["lora", "dora", "full"], "; did you mean lora"),
        ("VQA", ["gqa", "vqa"], "; did you mean vqa"),
        ("VL_PET", ["vl-pet", "lst"], "; did you mean vl-pet?"),
        ("xyz", ["vqa"], ""),
        ("", ["vqa"], ""),
        ("vqa", [], ""),
        ("a" * 10**7, ["a" * 40, "vqa"], ""),
    ],
)
def test_similar_names_are_suggested(name: str, known: list[str], end: str) -> None:
    assert did_you_mean(name, known).startswith(end)
    assert bool(did_you_mean(name, known)) == bool(end)


def test_an_unknown_name_is_reported_with_those_that_exist() -> None:
    assert unknown_name("method", "lts", ["full", "lst"]) == (
        "no method 'lts': expected one of: full, lst; did you mean lst?"
    )
    assert unknown_name("method", "xyz", ["full"]) == "no method 'xyz': expected one of: full"


def test_what_is_counted_agrees_with_its_number() -> None:
    assert counted(1, "example") == "1 example"
    assert [counted(number, "example") for number in (0, 2000)] == ["0 examples", "2,000 examples"]
    assert counted(1, "example has", "examples have") == "1 example has"
    assert counted(2, "example has", "examples have") == "2 examples have"
