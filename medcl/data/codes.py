"""Every finding on an input by its code: how severe, what it means and what to do.

The table in config/README.md is made of this; a test sees to it that no code is missing.
error: the case is quarantined; warning: accepted, and worth a look; info: nothing is wrong.
"""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """`severities`: the ones it occurs with, the gravest first."""

    severities: tuple[str, ...]
    meaning: str
    remedy: str


E, W, INFO = ("error",), ("warning",), ("info",)
EW, EI, WI = (*E, *W), (*E, *INFO), (*W, *INFO)
NOTHING = "nothing to do"
AGAIN = "copy it again from its origin"

CODES: dict[str, dict[str, Code]] = {
    "files and tables": {
        "unreadable": Code(E, "damaged, cut off, or not what its name says", AGAIN),
        "missing_image_file": Code(E, "the image that is named is not there", "correct the path"),
        "missing_voxel_file": Code(
            E,
            "the file in which a header (.mhd, .nhdr) has its voxels is not there",
            "supply it, or correct its name in the header",
        ),
        "missing_label_file": Code(E, "the label that is named is not there", "correct the path"),
        "unusable_name": Code(E, "a path that is no text in UTF-8", "rename it"),
        "label_without_image": Code(E, "a label of no image", "supply the image, or remove it"),
        "label_among_images": Code(
            EI,
            "an image is a label of a case, or is named as labels are; info: left out",
            "make `images` narrower, or name another file",
        ),
        "several_labels": Code(E, "several labels match one image", "make `labels` narrower"),
        "label_ambiguous": Code(
            E,
            "a label may belong to several images, or a file be an image or a mask",
            "make its name, or `labels`, fit one; name masks of no class in `ignored_structures`",
        ),
        "unlabelled": Code(EI, "no label", "error only under `labels: required`: supply one"),
        "duplicate_name": Code(
            EI,
            "several inputs have one name; info: it is one file, used once",
            "rename one, or add {visit} or a column `case`",
        ),
        "subject_guessed": Code(
            W,
            "nothing names the person: a DICOM study, or else the case, counts as one",
            "give `subject` of the source or a column, or set `subjects: unknown`",
        ),
        "row_too_long": Code(E, "more values than columns", "quote values with the separator"),
        "unknown_subject": Code(E, "`subject` finds nothing in the name", "widen the expression"),
        "unknown_modality": Code(E, "the table names no modality", "write a known one"),
        "modality_differs": Code(
            E,
            "the header says another modality than the dataset",
            "exclude it, or set `modality` of the source",
        ),
        "excluded": Code(INFO, "left out by `exclude`", NOTHING),
        "not_used": Code(
            INFO, "belongs to no case", "describe it, or change the pattern or table, to use it"
        ),
        "channel_chosen": Code(INFO, "one of several channels is used", NOTHING),
        "missing_channel": Code(
            E, "a case lacks one of `channels`", "supply it, or take it out of `channels`"
        ),
        "channel_used_twice": Code(
            E, "one image would fill two channels", "make `images` narrower"
        ),
        "several_channels": Code(
            E, "several images for one channel of a case", "make `images` narrower"
        ),
        "label_of_other_channel": Code(
            W,
            "drawn on a channel that is not the reference; not used",
            "set `reference`, or remove it",
        ),
        "failed": Code(E, "an oversight of medcl", "report it, and exclude the case"),
    },
    "place": {
        "not_3d": Code(E, "no volume of three axes and one value", "supply one 3-D file per case"),
        "affine_not_finite": Code(E, "the affine holds NaN or inf", "write a valid affine"),
        "affine_singular": Code(E, "the affine has no inverse", "write a valid affine"),
        "affine_sheared": Code(E, "the axes are not at right angles", "resample it"),
        "implausible_spacing": Code(
            E, "voxels below 0.01 or above 20 mm", "correct the spacing; the unit is mm"
        ),
        "no_orientation": Code(
            W,
            "the header does not say which side is which",
            "set the affine, or make sure that all cases lie alike",
        ),
        "sform_qform_differ": Code(
            W, "two affines that disagree; the sform is used", "remove the wrong one"
        ),
    },
    "channels": {
        "channel_resampled": Code(
            INFO, "interpolated onto the grid of the reference channel", NOTHING
        ),
        "channel_partly_outside": Code(
            W,
            "shows a part of the reference; elsewhere it is background",
            "check that both were registered; `reference` may be the smaller one",
        ),
        "channel_outside": Code(
            E,
            "shows less than half of the reference",
            "check that both are of one case, or choose another `reference`",
        ),
    },
    "values": {
        "colour": Code(E, "colours", "supply grey-value images"),
        "complex": Code(E, "complex numbers", "supply magnitude images"),
        "not_finite": Code(E, "NaN or inf", "replace them by the value of the background"),
        "constant": Code(E, "every voxel is the same", "supply the image, or remove the case"),
        "saturated": Code(
            W, "2 % of the voxels or more have the highest value", "export it without a window"
        ),
        "nearly_empty": Code(
            W,
            "98 % of the voxels or more have the lowest value",
            "look at it: it may be a mask, or have been cut out wrongly",
        ),
        "implausible_intensities": Code(
            W,
            "CT: no value below 0, or all within 50 (no Hounsfield units); PET and US: 0.1 % of "
            "the voxels or more below 0; MR: values like those of a CT",
            "check the rescale slope and intercept of its export, or `modality`",
        ),
    },
    "labels": {
        "shape_differs": Code(
            E, "not as many voxels as the image", "supply it on the grid of its image"
        ),
        "affine_differs": Code(
            E,
            "lies 0.05 voxels or more beside the image",
            "resample it to the grid of its image, or set `label_grid: any`",
        ),
        "label_reoriented": Code(INFO, "its axes are stored in another order; turned", NOTHING),
        "label_resampled": Code(
            W, "moved to the grid of its image (`label_grid: any`)", "look at one of them"
        ),
        "non_integer_label": Code(
            E, "values that are not whole", "supply classes, not probabilities"
        ),
        "undeclared_label_values": Code(
            E, "values that `classes` does not declare", "add them, or correct the label"
        ),
        "class_differs": Code(
            W,
            "dataset.json has another name for a value of `classes`, or not the value",
            "make sure that both mean the same",
        ),
        "class_left_out": Code(
            W, "dataset.json has a value that `classes` has not", "add it, or make labels without"
        ),
        "mask_not_binary": Code(
            E, "several values in the mask of one class", "use {class} for masks only"
        ),
        "empty_label": Code(EW, "background only", "check that this patient has none"),
        "label_values": Code(INFO, "its values, where `classes` does not name them", NOTHING),
    },
    "structures, RTSTRUCT and DICOM-SEG": {
        "not_an_annotation": Code(E, "no RTSTRUCT or DICOM-SEG", "name the right object"),
        "annotation_unmatched": Code(
            E, "its series is not here", "supply the series, or make `labels` narrower"
        ),
        "annotation_of_another_series": Code(
            EW,
            "drawn on another series; warning: of the same frame of reference",
            "pair each object with its own series",
        ),
        "annotation_of_several_volumes": Code(
            W,
            "names no slice of the volumes of its series; used for each",
            "look at it beside each, or exclude those it was not drawn on",
        ),
        "annotation_automatic": Code(
            W, "made by a program", "use it only if it may serve as reference"
        ),
        "annotation_outside": Code(
            EW, "all (error) or some of it lies outside the image", "check that it belongs to it"
        ),
        "several_annotations": Code(
            E, "two objects mark one class of an image", "make `labels` narrower"
        ),
        "no_structure": Code(
            E, "no structure belongs to a class", "write its names under `structures`"
        ),
        "structure_near_miss": Code(
            E,
            "no structure of a name, but one much like it",
            "add it to `structures`, or to `ignored_structures`",
        ),
        "structure_ambiguous": Code(
            E, "a structure belongs to two classes", "make the patterns narrower"
        ),
        "structure_missing": Code(
            W,
            "no structure of a class: it is background",
            "check that this patient has none, or write its name under `structures`",
        ),
        "structure_empty": Code(W, "a structure without contours", "check that it was drawn"),
        "structures_not_used": Code(INFO, "structures of no class", NOTHING),
        "structures_overlap": Code(INFO, "the class that stands later in `classes` wins", NOTHING),
        "too_many_structures": Code(E, "more than 255 structures", "name those of interest"),
        "contour_across_planes": Code(
            E, "a contour leaves the planes of the image", "use the series it was drawn on"
        ),
        "contours_with_gaps": Code(
            W, "planes without a contour between others", "check that all were drawn"
        ),
        "contour_not_closed": Code(WI, "points or open lines, which hold no voxel", "close them"),
        "no_segmentation_object": Code(
            E, "no DICOM-SEG can refer to the series", "use the NIfTI file"
        ),
    },
    "DICOM series": {
        "not_an_image": Code(EI, "another object, skipped", NOTHING),
        "localiser": Code(INFO, "a survey image, skipped", "to use it: `dicom.localisers: keep`"),
        "no_pixel_data": Code(E, "an image without pixels", AGAIN),
        "no_geometry": Code(
            E, "no position, orientation or spacing", "supply slices with their positions"
        ),
        "mosaic": Code(E, "a mosaic without its private header", "export it slice by slice"),
        "single_slice": Code(E, "one slice", "supply the whole series"),
        "too_few_slices": Code(
            E, "too few slices", "supply the series, or lower `dicom.fewest_slices`"
        ),
        "two_slices": Code(W, "two slices: a gap would not show", "check their distance"),
        "missing_slices": Code(
            E, "slices are missing", "supply them, or set `dicom.allow_missing_slices`"
        ),
        "slices_missing_at_end": Code(
            EW,
            "other volumes of the series go on; warning: kept, and shorter than those",
            "supply them, or set `dicom.allow_missing_slices`",
        ),
        "stations": Code(
            W,
            "volumes of a series of which each goes on beyond the others; kept",
            "make sure that none was broken off",
        ),
        "uneven_spacing": Code(
            E, "slices at uneven distances", "supply others, or set `dicom.allow_missing_slices`"
        ),
        "slices_interpolated": Code(W, "slices were filled in linearly", "look at the case"),
        "gantry_tilt": Code(E, "a tilted stack", "resample it, or set `dicom.gantry_tilt: shear`"),
        "tilt_sheared": Code(W, "a tilted stack was sheared straight", "look at the case"),
        "mixed_orientation": Code(
            E, "slices of several orientations", "give each a folder of its own"
        ),
        "mixed_geometry": Code(
            E, "slices of different size, spacing or line", "supply one acquisition"
        ),
        "mixed_kind": Code(
            E,
            "slices of several modalities, or some with dark high values",
            "supply slices of one acquisition, or correct the tag",
        ),
        "several_series": Code(
            E, "several series in one folder", "use layout dicom: it makes each a case"
        ),
        "several_volumes": Code(
            E, "several volumes in one folder or series", "give each a folder of its own"
        ),
        "duplicate_slices": Code(
            EW, "slices stored twice; error: and they differ", "remove the copies"
        ),
        "part_of_series": Code(
            W, "another folder holds these slices and more", "exclude one of the two"
        ),
        "damaged_beside": Code(W, "unreadable files lie beside the series", AGAIN),
        "inverted": Code(
            W, "high values are meant to be dark; kept", "invert them if other cases are not so"
        ),
        "unit_unknown": Code(
            W,
            "predictions: a PET file that does not say its unit; taken as SUV",
            "make sure that it is",
        ),
        "series_lost": Code(
            E, "predictions: the slices of a converted case are not there", "run ingest again"
        ),
        "no_suv": Code(
            E, "the header lacks what SUV needs", "supply it whole, or set `dicom.suv: false`"
        ),
    },
    "slides": {
        "missing_slide": Code(E, "the slide that is named is not there", "supply it"),
        "truncated": Code(E, "cut off", AGAIN),
        "not_rgb": Code(E, "no colours of 8 bits a channel", "export it in colour"),
        "no_mpp": Code(
            E, "the size of a pixel is not known", "give `microns_per_pixel` of this slide"
        ),
        "implausible_mpp": Code(
            E, "the given size of a pixel is not plausible", "correct `microns_per_pixel`"
        ),
        "no_level": Code(E, "no such level of the pyramid", "choose a level it has"),
        "too_coarse": Code(
            E,
            "coarser than what is asked for",
            "choose a greater `microns_per_pixel`, or `allow_upsampling`",
        ),
        "mask_unreadable": Code(E, "a damaged mask", "supply a PNG or GeoJSON, or leave it out"),
        "mask_differs": Code(
            E, "a mask of other proportions than the slide", "supply a mask of the whole slide"
        ),
        "empty": Code(
            E, "no tissue was found", "give a mask, or lower `saturation` or `piece_mm2`"
        ),
        "no_tiles": Code(E, "no tile has enough tissue", "lower `least_tissue` or `tile`"),
        "missing_truth": Code(W, "no truth to compare tiles with", "mend the column `truth`"),
        "truth_unreadable": Code(
            W, "a damaged truth, or not one label a pixel", "supply a PNG with one channel"
        ),
        "truth_differs": Code(
            W, "a truth of other proportions than the slide", "supply a truth of the whole slide"
        ),
        "truth_absent": Code(
            W,
            "the value of `truth` is nowhere in the truth of a slide of the last class",
            "correct `truth` of the dataset, or the picture",
        ),
        "pen_marks": Code(W, "marker ink, left out", "set `pen: false` if it is stain"),
        "smooth": Code(
            W,
            "much of the tissue has no structure, and is left out",
            "look at qc.png; `sharpness: 0` keeps such areas",
        ),
    },
}
