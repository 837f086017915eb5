"""A table in the page, as CSV and as LaTeX."""

import re

import pytest

from medcl.study.tables import Column, Number, Table, escaped, write_table

TABLE = Table(
    "answer",
    "Dice & 95 % intervals",
    (
        Column("arm", "arm", "t"),
        Column("difference", "difference", "n", interval=True),
        Column("hd95", "HD95_mm", "n", note="undefined"),
        Column("p", "p", "n"),
    ),
    [
        [
            "voco_v2",
            Number(-0.0321, 1, 100.0, True, (-0.05, -0.011)),
            Number(3.25, 1, note=4),
            Number(0.00012, text="< 0.001"),
        ],
        ["scratch", "", Number(None), "–"],
    ],
    (1,),
)


def test_the_page_shows_rounded_numbers_with_their_intervals_and_counts():
    html = TABLE.html()
    assert '<span class="estimate">−3.2 <small>(−5.0 to −1.1)</small></span>' in html
    assert "<small>[4]</small>" in html
    assert "&lt; 0.001" in html
    assert Table("empty", "x", TABLE.columns, []).html() == ""


def test_the_csv_file_holds_plain_numbers_and_is_empty_where_there_is_none(tmp_path):
    write_table(tmp_path, TABLE)
    assert (tmp_path / "answer.csv").read_text().splitlines() == [
        "arm,difference,difference_low,difference_high,hd95,undefined,p",
        "voco_v2,-0.0321,-0.05,-0.011,3.25,4,0.00012",
        "scratch,,,,,0,",
    ]


def test_the_latex_table_has_booktabs_rules_and_equal_rows(tmp_path):
    write_table(tmp_path, TABLE)
    lines = (tmp_path / "answer.tex").read_text().splitlines()
    assert lines[0] == "% needs \\usepackage{booktabs}"
    assert "\\caption{Dice \\& 95 \\% intervals}" in lines
    assert "\\begin{tabular}{lrrr}" in lines
    assert "voco\\_v2 & $-$3.2 ($-$5.0 to $-$1.1) & 3.2 [4] & $<$ 0.001 \\\\" in lines
    body = lines[lines.index("\\toprule") + 1 : lines.index("\\bottomrule")]
    rows = [line for line in body if line != "\\midrule"]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}
    assert body.count("\\midrule") == 2
    for name in ("table", "tabular"):
        assert sum(f"\\begin{{{name}}}" in line for line in lines) == 1
        assert sum(f"\\end{{{name}}}" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & c%", r"a\_b \& c\%"),
        ("−0.3 × 2 – “x”", r"$-$0.3 $\times$ 2 -- ``x''"),
        ("{#$} \\ ~ ^", r"\{\#\$\} \textbackslash{} \textasciitilde{} \textasciicircum{}"),
    ],
)
def test_nothing_in_a_text_is_a_command_of_latex(text, latex):
    assert escaped(text) == latex
