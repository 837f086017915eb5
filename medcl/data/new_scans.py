"""New scans, brought to what a model was trained on or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from medcl.config import Dataset, Dicom, load_section
from medcl.data.channel_lists import Channels
from medcl.data.channels import assemble, file_of, read_channel
from medcl.data.checks import Finding, check_image
from medcl.data.combined import images_of
from medcl.data.dicom import Series, read_series
from medcl.data.entries import ChannelFile, Entry
from medcl.data.headers import read_header
from medcl.data.plan import ORIENTATION, Plan
from medcl.data.preprocess import Geometry
from medcl.data.undescribed import list_undescribed
from medcl.data.volume import Volume, VolumeError, reorient
from medcl.errors import MedclError

# A new scan's spacing may differ from the plan's by this factor along each axis.
SPACING_FACTOR = 3.0


class Scan(NamedTuple):
    """A volume with its modality; `told` is what is worth a look, and no reason to refuse it."""

    volume: Volume
    modality: str
    series: Series | None
    told: list[Finding]


def list_scans(path: Path, plan: Plan) -> list[Entry]:
    """The scans of a file or folder, or those a dataset YAML describes; labels are not read."""
    channels = Channels(tuple(channel.name for channel in plan.inputs), plan.reference)
    if path.suffix.lower() not in (".yaml", ".yml"):
        return list_undescribed(path, plan.dicom, channels, labels=False)[1]
    dataset = load_section(Dataset, str(path))
    if set(dataset.channel_names) not in (set(), set(channels.names)):
        raise MedclError(
            f"{path}: channels: {', '.join(dataset.channel_names)}, the model was trained on "
            f"{', '.join(channels.names) or 'one image without a name'}; name the same"
        )
    found = images_of(dataset, _dicom(dataset, plan, path), channels)
    if channels.names:  # each has a modality of its own, which the model knows
        return found
    return [
        entry if entry.modality or entry.series else replace(entry, modality=dataset.modality)
        for entry in found
    ]


def _dicom(dataset: Dataset, plan: Plan, path: Path) -> Dicom:
    """The model's rules for series, where the YAML has none of its own; the unit must be one."""
    own = {key: getattr(dataset.dicom, key) for key in dataset.dicom.model_fields_set}
    if own.get("suv", plan.dicom.suv) != plan.dicom.suv:
        raise MedclError(
            f"{path}: dicom.suv: {str(own['suv']).lower()}, the model was trained with "
            f"{str(plan.dicom.suv).lower()}; remove the key, or use a model of this unit"
        )
    return plan.dicom.model_copy(update=own)


def read_scan(entry: Entry, plan: Plan, *, modality: str | None, force: bool) -> Scan:
    """Judge a scan as ingest does and by what the model was made for; MedclError refuses it.

    `modality` is that of files that do not say it; `force` accepts others, and any spacing.
    """
    _refuse(entry.findings, always=entry.skipped)
    modality_of = {channel.name: channel.modality for channel in plan.inputs}
    told: list[Finding] = []
    volumes: list[Volume] = []
    kinds: list[str] = []
    all_series: list[Series | None] = []
    for part in entry.images:
        series = _series(part, plan)
        trained_on = modality_of.get(part.name, plan.modality)
        said = series.modality if series and series.modality != "other" else None
        kind = entry.modality or said or modality or "unknown"
        if not force:
            _check_modality(part.path, kind, trained_on)
        volume, notes = _decoded(part, series, in_suv=plan.dicom.suv and trained_on == "PET")
        _refuse(check_image(volume, part.path, channels=1 if entry.files else plan.channels))
        told += notes
        volumes.append(volume)
        kinds.append(kind)
        all_series.append(series)
    volume = volumes[entry.reference]
    if entry.files:
        volume, findings = assemble(entry.case, entry.files, volumes, entry.reference)
        _refuse(findings)
        told += findings
    if not force:
        _check_spacing(str(entry.image), volume, plan)
    return Scan(volume, kinds[entry.reference], all_series[entry.reference], told)


def _series(part: ChannelFile, plan: Plan) -> Series | None:
    try:
        if part.series is None and Path(part.path).is_dir():
            return read_series(part.path, plan.dicom)
    except OSError as error:
        where, why = error.filename or part.path, error.strerror or error
        told = f"{where}: cannot be read, {why}"
        raise VolumeError("unreadable", told, "allow reading it, or leave it out") from None
    return part.series


def _decoded(
    part: ChannelFile, series: Series | None, *, in_suv: bool
) -> tuple[Volume, list[Finding]]:
    """The volume of a file or series, and what is worth a look in it."""
    if series is None:
        notes = read_header(file_of(part.path)[0])[1]
        if in_suv:
            told = f"{part.path}: does not say its unit; taken as SUV, which the model expects"
            remedy = "make sure that it is"
            notes = [*notes, Finding("unit_unknown", "warning", told, remedy)]
        return read_channel(part.path), notes
    try:
        volume = series.decode()
    except VolumeError as error:
        if error.code != "no_suv":
            raise
        raise VolumeError(
            error.code,
            f"{error.message}; the model was trained on SUV",
            "supply the series with its whole header, or use a model of another unit",
        ) from None
    return volume, [finding for finding in series.findings if finding.severity == "warning"]


def _refuse(findings: Sequence[Finding], *, always: bool = False) -> None:
    told = [str(finding) for finding in findings if always or finding.severity == "error"]
    if told:
        raise MedclError("; ".join(told))


def _check_modality(path: str, modality: str, trained_on: str) -> None:
    if modality not in ("unknown", trained_on) and trained_on != "other":
        raise MedclError(
            f"{path}: modality {modality}, the model was trained on {trained_on}; use a model "
            "of this modality, or --force"
        )


def _check_spacing(path: str, volume: Volume, plan: Plan) -> None:
    """Compare along the canonical axes, as the plan's spacing is."""
    spacing = reorient(Geometry.of(volume).volume(), ORIENTATION).spacing
    seen = plan.fingerprint.get("spacing_range", [plan.spacing, plan.spacing])
    for mm, planned, fine, coarse in zip(spacing, plan.spacing, *seen, strict=True):
        low, high = min(planned / SPACING_FACTOR, fine), max(planned * SPACING_FACTOR, coarse)
        if not low * 0.999 <= mm <= high * 1.001:
            raise MedclError(
                f"{path}: spacing {shown(spacing)} mm (x, y, z), of which {mm:.4g} mm is outside "
                f"{low:.3g} to {high:.3g} mm, what the model was trained for; use a model for "
                "such scans, or --force"
            )


def shown(spacing: Sequence[float]) -> str:
    return "x".join(f"{mm:.3g}" for mm in spacing)
