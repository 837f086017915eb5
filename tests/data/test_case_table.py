"""Tables as people write them."""

from pathlib import Path

import pytest

from medcl.config import Source
from medcl.data.channel_lists import Channels
from medcl.data.checks import missing_file
from medcl.data.entries import Entry
from medcl.data.sources import list_entries
from medcl.errors import MedclError


def listed(root: Path, text: str | bytes, channels: Channels | None = None) -> list[Entry]:
    (root / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    source = Source(layout="csv", path="t.csv")
    return list_entries([source], str(root), channels=channels or Channels())


def codes(entry: Entry) -> list[str]:
    return [finding.code for finding in entry.findings]


PLAIN = "subject,image,label\np1,i/p1.nii,l/p1.nii\n"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + PLAIN.replace(",", ";").replace("\n", "\r\n"),
        PLAIN.replace(",", "\t"),
        PLAIN.encode("utf-16"),
        " Subject , IMAGE ,Label\np1 , i/p1.nii , l/p1.nii \n",
        'subject, "image", label\np1, "i/p1.nii", "l/p1.nii"\n,,\n\n',
        PLAIN.replace("/", "\\"),
        "\n \r\n" + PLAIN.replace(",", ";"),
        ";;\n" + PLAIN.replace(",", ";"),
        PLAIN.replace("label", '"label"').replace(",", "\t"),
    ],
)
def test_separators_spaces_letter_case_and_slashes_do_not_matter(tmp_path, text):
    (entry,) = listed(tmp_path, text)
    files = [
        Path(str(path)).relative_to(tmp_path).as_posix() for path in (entry.image, entry.label)
    ]
    assert (entry.subject, *files) == ("p1", "i/p1.nii", "l/p1.nii")
    assert entry.extra == {}
    assert codes(entry) == []


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_comma_within_a_quoted_name_parts_no_columns(tmp_path, separator):
    header = separator.join(('"age, sex, ""site"", arm"', "image"))
    (entry,) = listed(tmp_path, f"{header}\n61{separator}a.nii\n")
    assert entry.extra == {'age, sex, "site", arm': "61"}
    assert Path(str(entry.image)).name == "a.nii"


def test_a_file_whose_name_holds_a_backslash_is_found(tmp_path):
    (tmp_path / "i\\p1.nii").touch()
    (entry,) = listed(tmp_path, PLAIN.replace("i/", "i\\"))
    assert Path(str(entry.image)).name == "i\\p1.nii"


def test_what_programs_write_for_nothing_is_no_file(tmp_path):
    rows = "".join(
        f"p{n},i.nii,{word}\n" for n, word in enumerate(("n/a", "NaN", "NA", "None", ""))
    )
    entries = listed(tmp_path, "subject,image,label\n" + rows)
    assert [entry.label for entry in entries] == [None] * 5


def test_rows_are_told_by_their_line_in_the_file(tmp_path):
    first, second = listed(tmp_path, "subject,image\n\np1,a.nii\n,\n\np2,\n")
    assert codes(first) == []
    assert codes(second) == ["missing_image_file"]
    assert second.findings[0].message.endswith("t.csv:6: no image")


def test_a_row_with_more_values_than_columns_is_refused(tmp_path):
    first, second = listed(tmp_path, "subject,image\np1,a,b.nii\np2,c.nii,,\n")
    assert codes(first) == ["row_too_long"]
    assert codes(second) == []


def test_a_row_that_names_nobody_is_told(tmp_path):
    first, second = listed(tmp_path, "subject,image\n,a.nii\np2,b.nii\n")
    assert (codes(first), first.findings[0].severity) == (["subject_guessed"], "warning")
    assert codes(second) == []
    (entry,) = listed(tmp_path, "image\na.nii\n")  # nobody expects subjects here
    assert codes(entry) == []


def test_modalities_are_known_in_any_letter_case(tmp_path):
    entries = listed(tmp_path, "case,image,modality\na,a.nii,ct\nb,b.nii,Pet\nc,c.nii,mri\n")
    assert [entry.modality for entry in entries] == ["CT", "PET", None]
    assert codes(entries[2]) == ["unknown_modality"]


def test_one_image_of_a_table_never_fills_two_channels(tmp_path):
    both = Channels(("T2", "ADC"))
    one, two = listed(tmp_path, "case,T2,ADC\na,x.nii,i/../x.nii\nb,x.nii,y.nii\n", both)
    assert codes(one) == ["channel_used_twice"]
    assert codes(two) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv: is empty; its first line must name the columns"),
        ("subject,image\n", "t.csv: has no rows"),
        ("subject,image,image\np,a,b\n", "column 'image' stands there twice"),
        ("größe,image\nx,y\n".encode("latin-1"), "t.csv:1: byte 0xf6 is no UTF-8; save"),
        (b"PK\x03\x04", "is a spreadsheet; export it as CSV"),
        ('subject,image\np,"a.nii\n', r"t\.csv:2: .*; check the quotation marks"),
    ],
)
def test_what_is_no_table_is_refused_with_what_to_do(tmp_path, text, message):
    with pytest.raises(MedclError, match=message):
        listed(tmp_path, text)


def test_a_folder_in_place_of_a_table_is_refused(tmp_path):
    with pytest.raises(MedclError, match="is a folder; name the table itself"):
        list_entries([Source(layout="csv")], str(tmp_path))


def test_a_missing_file_is_told_with_the_folder_that_is_not_there(tmp_path):
    (tmp_path / "a").mkdir()
    told = missing_file("missing_image_file", tmp_path / "a" / "b" / "c" / "d.nii").message
    assert told.endswith(f"(there is no folder {tmp_path / 'a' / 'b'})")
    assert "no folder" not in missing_file("missing_image_file", tmp_path / "a" / "d.nii").message
    told = str(missing_file("missing_image_file", f"{tmp_path}/C:/data/d.nii"))
    assert told.startswith("C:/data/d.nii: a path of another computer")
