"""A notebook's tables: what comes first, what is marked, and that texts of data stay texts."""

from __future__ import annotations

import re

import polars as pl
import pytest
from IPython.core.interactiveshell import InteractiveShell

from llm2rec_kit.figures import sample_text, styled_tables
from llm2rec_kit.runs import RECORD_MIME, show_record, show_records

TESTS = pl.DataFrame(
    {
        "recommender": ["SASRec", "GRU4Rec"],
        "before": ["raw", "raw"],
        "after": ["csft", "mine"],
        "metric": ["ndcg@10", "ndcg@10"],
        "difference": [0.0143, -0.02],
        "p": [0.00005, 0.3],
        "p_holm": [0.00061, 1e-12],
        "verdict": ["better", "no detectable difference"],
    }
)


@pytest.fixture(autouse=True)
def config():
    """Whatever a test sets, polars and this process are as before."""
    with pl.Config():
        yield


@pytest.fixture
def shell(monkeypatch):
    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    yield shell
    InteractiveShell.clear_instance()


def cells(page):
    """The texts of a table's rows, heads first."""
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_verdict_and_corrected_p_stand_behind_the_names():
    styled_tables.show_frames()
    heads, first, second = cells(styled_tables.as_html(TESTS))
    assert heads == ["recommender", "before", "after", "verdict", "p (Holm)", "metric", "difference", "p"]
    assert first == ["SASRec", "raw", "csft", "better", "0.00061", "ndcg@10", "+0.0143", "5e-05"]
    assert second[3:5] == ["no detectable difference", "1e-12"]


def test_the_text_has_the_same_order_and_neither_types_nor_shape():
    styled_tables.show_frames()
    text = styled_tables.as_text(TESTS)
    assert re.search(r"recommender ┆ before ┆ after ┆ verdict +┆ p \(Holm\)", text)
    assert "0.00061" in text
    assert not re.search(r"shape|str|f64|\"", text)


def test_the_best_row_is_marked_and_those_tied_less_so():
    frame = pl.DataFrame({"embedding": ["raw", "csft", "id"], "place": ["", "best", "tied for best"]})
    none, best, tied = re.findall(r"<tr>(.*?)</tr>", styled_tables.as_html(frame))[1:]
    assert "background" not in none
    assert styled_tables.PLACES["best"] in best
    assert styled_tables.PLACES["tied for best"] in tied


def test_a_small_number_is_not_shown_as_nought_nor_nought_as_a_small_number():
    assert [styled_tables._cell(v, 30) for v in (4e-5, -4e-5, 0.0, 5e-5, 0.25)] == [
        "4e-05",
        "-4e-05",
        "0",
        "0.0001",
        "0.2500",
    ]
    styled_tables.show_frames()
    frame = pl.DataFrame({"leak": [0.0, 4e-5, None, 1.5], "loss": [0.5, 0.25, 1.0, 2.0]})
    assert [row[0] for row in cells(styled_tables.as_html(frame))[1:]] == ["0", "4e-05", "", "1.5000"]
    assert [row.split()[1::2] for row in styled_tables.as_text(frame).splitlines()[3:-1]] == [
        ["0", "0.5000"],
        ["4e-05", "0.2500"],
        ["null", "1.0000"],
        ["1.5000", "2.0000"],
    ]


def test_numbers_that_were_rounded_have_no_digits_past_it():
    styled_tables.show_frames()
    frame = pl.DataFrame({"domain": ["games"], "mean length": [7.38], "train share": [0.8]})
    assert cells(styled_tables.as_html(frame))[1] == ["games", "7.38", "0.800"]
    assert 'text-align: right; white-space: nowrap; ; ">7.38' in styled_tables.as_html(frame)
    assert re.search(r"7\.38 +┆ 0\.800 ", styled_tables.as_text(frame))


def test_ranks_over_seeds_have_one_digit_behind_the_point():
    frame = pl.DataFrame({"rank id": [1665.69228, 2.0], "rank csft": [3.301927, None], "rank": [1, 2]})
    assert cells(styled_tables.as_html(frame))[1:] == [["1,665.7", "3.3", "1"], ["2.0", "", "2"]]
    assert "1,665.7" in styled_tables.as_text(frame)


def test_texts_of_data_are_shown_as_texts_and_cut():
    styled_tables.show_frames(letters=30)
    page = styled_tables.as_html(pl.DataFrame({"<b>": ["<script>alert(1)</script>", "x" * 40, None]}))
    assert "<script>" not in page
    assert "<b>" not in page
    assert [row[0] for row in cells(page)[1:]] == ["&lt;script&gt;alert(1)&lt;/script&gt;", "x" * 30 + "…", ""]


def test_of_many_rows_the_first_and_last_are_shown():
    styled_tables.show_frames(rows=4)
    found = cells(styled_tables.as_html(pl.DataFrame({"n": range(9)})))
    assert found == [["n"], ["0"], ["1"], ["… 5 more …"], ["7"], ["8"]]


def test_an_interval_has_a_line_of_its_own():
    assert "0.1 ± 0.2<br><small>[0.1, 0.3]</small>" in styled_tables.as_html(
        pl.DataFrame({"recall": ["0.1 ± 0.2 [0.1, 0.3]"]})
    )


def test_every_frame_that_a_cell_shows_is_shown_so(shell):
    styled_tables.show_frames()
    shown, _ = shell.display_formatter.format(TESTS)
    assert shown["text/html"] == styled_tables.as_html(TESTS)
    assert shown["text/plain"] == styled_tables.as_text(TESTS)


def test_a_record_fills_no_page_and_a_terminal_still_tells_it(monkeypatch):
    given = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: given.append(data))
    show_record("csft", {"loss": 0.5})
    assert given[0][RECORD_MIME]["values"] == {"loss": 0.5}
    assert given[0]["text/plain"] == "recorded csft: loss=0.5000"
    assert re.sub(r"<!--.*?-->", "", given[0]["text/html"]) == ""


def test_tokens_to_predict_are_filled_and_those_read_are_not(tiny):
    _, tokenizer = tiny
    read, predicted = (tokenizer(text)["input_ids"] for text in ("Iron <b>", "Vale\n"))
    page = sample_text.boxes(tokenizer, read, predicted).data
    found = re.findall(r'<span style="([^"]*)">([^<]*)</span>', page)
    assert len(found) == len(read) + len(predicted)
    assert [look.endswith(sample_text.PREDICTED) for look, _ in found] == [False] * len(read) + [True] * len(predicted)
    assert "".join(text for _, text in found) == "Iron &lt;b&gt;Vale\\n"


def test_rows_of_a_frame_are_records_named_after_them(monkeypatch):
    given = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: given.append(data[RECORD_MIME]))
    frame = pl.DataFrame({"domain": ["games", "crafts"], "loss": [0.5, 0.25], "n": [1, 2]})
    show_records("of_{domain}_{n}", frame, ["loss"])
    show_records("whole_{domain}", frame.head(1))
    assert [(r["name"], r["values"]) for r in given] == [
        ("of_games_1", {"loss": 0.5}),
        ("of_crafts_2", {"loss": 0.25}),
        ("whole_games", {"domain": "games", "loss": 0.5, "n": 1}),
    ]


def test_frames_are_shown_under_their_titles(monkeypatch, capsys):
    monkeypatch.setattr("IPython.display.display", lambda frame: print(frame["n"].to_list()))
    styled_tables.show_each({"first": pl.DataFrame({"n": [1]}), "second": pl.DataFrame({"n": [2]})})
    assert capsys.readouterr().out == "first\n[1]\nsecond\n[2]\n"
