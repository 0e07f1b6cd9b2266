"""Text of data in Markdown, read back by a Markdown parser: what is seen is the text, and nothing else is there."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from llm2rec_kit.reproduction.report import markdown

ALPHABET = st.text(st.sampled_from("ab <>&|`*[]()!\\\n\r#;:/~\"'_"), max_size=30)
READ = MarkdownIt("commonmark", {"html": True}).enable("table")


def cells(text):
    """(kinds of inline tokens, text) of the one cell of a table that holds `text`."""
    tokens = READ.parse(f"| a |\n|---|\n| x{text}x |\n")
    inline = [t for t in tokens if t.type == "inline"]
    assert len(inline) == 2
    return {t.type for t in inline[1].children}, "".join(t.content for t in inline[1].children)


@given(ALPHABET)
@example("<img src=x onerror=y>")
@example("![a](b) [c](d) <http://e>")
@example("a | b `c` **d** &lt; \\| \n second")
def test_a_cell_shows_the_text_and_holds_nothing_else(text):
    shown = text.replace("_", "-")  # left as it is: in words it means nothing, at their ends it is only slanted
    kinds, seen = cells(markdown.escape(shown))
    assert kinds <= {"text", "text_special"}
    assert seen == f"x{' '.join(shown.splitlines())}x"


@given(ALPHABET.filter(lambda text: text.strip()))
@example("llm2rec reproduce --set 'csft.joiner=`' --data \"a|b\"")
def test_a_command_is_shown_to_the_letter(text):
    tokens = READ.parse(f"Command: {markdown.as_code(markdown.escape(text))}")
    (code,) = [t for t in tokens[1].children if t.type == "code_inline"]
    assert code.content.strip() == " ".join(text.splitlines()).strip()


def test_texts_in_lists_and_dicts_are_reached_and_numbers_are_left():
    found = markdown.escape({"a|b": [("<", 1.5)], "c": None})
    assert found == {"a\\|b": [["&lt;", 1.5]], "c": None}
