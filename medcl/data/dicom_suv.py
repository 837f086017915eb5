"""PET in Bq/mL becomes standardised uptake values by body weight.

    SUV = value * weight / (dose * 2^(-(t - t_injection) / half-life))

with the value in Bq/mL after the slope of its own slice, weight in g, dose in Bq and t the time
the values are corrected to: the start of the series for `DecayCorrection` START, the injection for
ADMIN. A series saved anew after its pictures were taken no longer says when it started, and one
whose header lacks a number cannot be converted: both are refused. Values in g/mL are SUV already.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from medcl.data.dicom_header import DAMAGE, quiet
from medcl.data.dicom_planes import Plane
from medcl.data.volume import VolumeError


def suv_factor(plane: Plane) -> float:
    """What the values of the series of a PET plane are multiplied by; raises VolumeError."""
    try:
        with quiet():
            dataset = pydicom.dcmread(plane.header.path, stop_before_pixels=True, force=True)
            return _factor(dataset)
    except DAMAGE as error:
        raise VolumeError(
            "no_suv",
            f"{plane.header.path}: no SUV: {error}",
            "supply the whole header, or set `dicom.suv: false`",
        ) from None


def _factor(dataset: Dataset) -> float:
    units = dataset.get("Units", "")
    if units == "GML":
        return 1.0
    if units != "BQML":
        raise ValueError(f"values are in '{units}', not BQML")
    corrected = set(dataset.get("CorrectedImage") or ())
    if not {"ATTN", "DECY"} <= corrected:
        raise ValueError("values are not corrected for attenuation and decay")
    source = (dataset.get("RadiopharmaceuticalInformationSequence") or [Dataset()])[0]
    weight = _positive(dataset, "PatientWeight") * 1000
    dose = _positive(source, "RadionuclideTotalDose")
    correction = dataset.get("DecayCorrection")
    if correction == "START":
        half_life = _positive(source, "RadionuclideHalfLife")
        dose *= 2 ** (-_seconds_to_scan(dataset, source) / half_life)
    elif correction != "ADMIN":
        raise ValueError(f"DecayCorrection is '{correction}', not START or ADMIN")
    return weight / dose


def _seconds_to_scan(dataset: Dataset, source: Dataset) -> float:
    start = _moment(dataset, "Series")
    taken = _moment(dataset, "Acquisition")
    if start > taken:
        raise ValueError("the series was saved anew after its pictures were taken")
    # The time of day alone: de-identification often shifts one date and not the other.
    if "RadiopharmaceuticalStartTime" in source:
        clock = _clock(str(source.RadiopharmaceuticalStartTime))
    else:
        clock = _clock(str(source["RadiopharmaceuticalStartDateTime"].value)[8:])
    injected = datetime.combine(start.date(), datetime.min.time()) + clock
    if injected > start:  # over midnight
        injected -= timedelta(days=1)
    seconds = (start - injected).total_seconds()
    if not 0 <= seconds < 12 * 3600:
        raise ValueError(f"{seconds / 3600:.1f} hours between injection and scan")
    return seconds


def _moment(dataset: Dataset, what: str) -> datetime:
    day = datetime.strptime(str(dataset[f"{what}Date"].value), "%Y%m%d")
    return day + _clock(str(dataset[f"{what}Time"].value))


def _clock(text: str) -> timedelta:
    return timedelta(hours=int(text[:2]), minutes=int(text[2:4]), seconds=float(text[4:] or 0))


def _positive(dataset: Dataset, keyword: str) -> float:
    value: Any = dataset.get(keyword)
    if value in (None, "") or not float(value) > 0:
        raise ValueError(f"{keyword} is '{value if value is not None else ''}'")
    return float(value)
