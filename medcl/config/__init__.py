"""The user's YAML as typed sections; every problem at once, with file, key path and suggestion.

These models are the single source of the configuration: the JSON Schema in `workflow/schemas/`
and the key table in `config/README.md` are generated from them (`python -m medcl schema`).
Options of an objective or a network are the keyword arguments of its constructor; their schema is
generated too, so that nothing here needs torch or monai.
"""

from medcl.config.base import (
    NAME,
    UNDECIDING,
    ConfigError,
    Count,
    Modality,
    Name,
    Positive,
    Section,
    Share,
    Triple,
    Voxels,
)
from medcl.config.dataset import Dataset, Dicom, Intensity, PhantomKeys, PlanKeys, Source
from medcl.config.loading import kind_of, load_section, load_slide_study, load_study
from medcl.config.options import SCHEMAS
from medcl.config.protocol import (
    Bound,
    Primary,
    Tune,
    origin_of,
    primary_pairs,
    settings_of,
    tuned_unlike,
)
from medcl.config.slides import (
    Folds,
    Mil,
    SlideDataset,
    SlideEncoder,
    SlidePhantom,
    SlideStudy,
    TileKeys,
    TilePretrain,
    TissueKeys,
)
from medcl.config.study import (
    Arm,
    Evaluate,
    Finetune,
    Network,
    Options,
    Phase,
    Predict,
    Pretrain,
    Report,
    Selftrain,
    Split,
    Study,
    Training,
)

__all__ = [
    "NAME",
    "SCHEMAS",
    "UNDECIDING",
    "Arm",
    "Bound",
    "ConfigError",
    "Count",
    "Dataset",
    "Dicom",
    "Evaluate",
    "Finetune",
    "Folds",
    "Intensity",
    "Mil",
    "Modality",
    "Name",
    "Network",
    "Options",
    "PhantomKeys",
    "Phase",
    "PlanKeys",
    "Positive",
    "Predict",
    "Pretrain",
    "Primary",
    "Report",
    "Section",
    "Selftrain",
    "Share",
    "SlideDataset",
    "SlideEncoder",
    "SlidePhantom",
    "SlideStudy",
    "Source",
    "Split",
    "Study",
    "TileKeys",
    "TilePretrain",
    "TissueKeys",
    "Training",
    "Triple",
    "Tune",
    "Voxels",
    "kind_of",
    "load_section",
    "load_slide_study",
    "load_study",
    "origin_of",
    "primary_pairs",
    "settings_of",
    "tuned_unlike",
]
