"""Who a case is of is told, read from headers, or guessed; a guess is a finding."""

from make_dicom import series_of
from test_dicom_tree import alike, put

from medcl.config import Dataset, Dicom
from medcl.data.channel_lists import NONE
from medcl.data.combined import images_of, joining, list_dataset
from medcl.data.contract import Rules
from medcl.data.entries import Entry
from medcl.data.header_pass import check_headers


def codes(entry: Entry) -> list[str]:
    return [finding.code for finding in entry.findings if finding.severity != "info"]


def test_a_person_that_is_guessed_is_told_once_a_case(tmp_path):
    put(tmp_path / "known", series_of(4))
    for name, uid, study in (("study", "6.1", "5.1"), ("nothing", "6.2", "")):
        tags = {"SeriesInstanceUID": uid, "StudyInstanceUID": study, "PatientID": ""}
        put(tmp_path / name, alike(series_of(4), **tags))
    keys = {"sources": [{"layout": "dicom"}], "modality": "CT", "classes": {"x": 1}}
    dataset = Dataset.model_validate({"name": "d", "root": str(tmp_path), **keys})
    rules = Rules(None, "CT")
    alone = check_headers(list_dataset(dataset, Dicom()), rules)
    joined = joining(dataset, images_of(dataset, Dicom(), NONE))
    for judged in (alone, check_headers(joined, rules)):
        found = {entry.case.removeprefix("d."): entry for entry in judged}
        assert codes(found["known"]) == []
        assert codes(found["study"]) == codes(found["nothing"]) == ["subject_guessed"]
        assert "of a study count as one person" in found["study"].findings[0].message
        assert "each volume counts as a person" in found["nothing"].findings[0].message
    named = dataset.model_copy(
        update={"sources": [dataset.sources[0].model_copy(update={"subject": "(.*)"})]}
    )
    assert all(codes(e) == [] for e in check_headers(list_dataset(named, Dicom()), rules))
