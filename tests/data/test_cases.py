import pytest

from medcl.data.cases import Case, read_cases, write_cases
from medcl.errors import MedclError


def case(name: str, **changes) -> Case:
    values = {
        "case": name,
        "subject": "s1",
        "visit": "",
        "image": f"raw/{name}.nii.gz",
        "label": None,
        "modality": "MR",
        "channels": 1,
        "shape": (48, 40, 26),
        "spacing": (1.0, 0.976562, 3.3),
        "orientation": "RAS",
        "image_sha256": "a" * 64,
        "voxel_sha256": "b" * 64,
        "label_sha256": None,
        "source": "raw",
    }
    return Case(**values | changes)


def test_cases_read_back_equal_what_was_written(tmp_path):
    cases = [
        case("b", label='with, comma and "quotes".nii', label_sha256="c" * 64, visit="2"),
        case("a", subject="Müller, 1"),
    ]
    write_cases(tmp_path / "cases.csv", cases)
    assert read_cases(tmp_path / "cases.csv") == cases
    first = (tmp_path / "cases.csv").read_text().splitlines()
    assert first[0].startswith("case,subject,visit,image,label,modality,channels,shape,spacing")
    assert "48x40x26,1.0x0.976562x3.3,RAS" in first[1]


def test_extra_columns_follow_by_name(tmp_path):
    cases = [case("a", extra={"site": "B", "cohort": "1"}), case("b", extra={"site": "C"})]
    write_cases(tmp_path / "cases.csv", cases)
    text = (tmp_path / "cases.csv").read_text().splitlines()
    assert text[0].endswith(",channel_images,cohort,site")
    assert read_cases(tmp_path / "cases.csv")[1].extra == {"cohort": "", "site": "C"}


def test_a_table_that_is_not_one_is_refused_by_name_and_line(tmp_path):
    path = tmp_path / "cases.csv"
    with pytest.raises(MedclError, match="no such file; run `medcl ingest` first"):
        read_cases(path)
    path.write_text("case,image\na,b\n")
    with pytest.raises(MedclError, match="column subject, visit, label"):
        read_cases(path)
    write_cases(path, [case("a"), case("a")])
    with pytest.raises(MedclError, match="case a stands there twice"):
        read_cases(path)
    write_cases(path, [case("a"), case("b")])
    path.write_text(path.read_text().replace("48x40x26", "48x40", 1))
    with pytest.raises(MedclError, match=r"cases\.csv:2: shape, spacing or channels"):
        read_cases(path)
    write_cases(path, [case("a"), case("b")])
    path.write_text(path.read_text().rsplit(",", 1)[0])
    with pytest.raises(MedclError, match=r"cases\.csv:3: not as many values as columns"):
        read_cases(path)
