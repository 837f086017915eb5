"""medcl: from files to the answer, as one workflow. See README.md and config/README.md."""

from medcl import workflow as medcl_workflow

medcl_workflow.use_this_interpreter()

# A plain `configfile:` would fill the gaps of a user's own file with the demo's values.
if not workflow.configfiles:

    configfile: f"{workflow.basedir}/config/config.yaml"


study = medcl_workflow.flow(
    config, workflow.configfiles, workflow.config_settings.config, workflow.basedir
)


# Built from workflow/medcl.def for those who run with `--sdm apptainer`; otherwise unused.
container: "medcl.sif"


wildcard_constraints:
    arm=medcl_workflow.one_of(study.arms),
    encoder=medcl_workflow.one_of(study.arms),
    aggregator=medcl_workflow.one_of(study.aggregators),
    labelled=r"\d+",
    replicate=r"\d+",
    seed=r"\d+",
    fold=r"\d+",


onstart:
    medcl_workflow.calm(workflow)
    study.write_resolved()


onerror:
    shell(
        "python -m medcl {study.report_command} --study {study.root}/config.resolved.yaml --out {study.root} --partial"
    )


rule all:
    default_target: True
    input:
        study.targets(),
    localrule: True


if study.kind == "slides":

    include: "workflow/rules/slides.smk"

else:

    include: "workflow/rules/phantom.smk"
    include: "workflow/rules/ingest.smk"
    include: "workflow/rules/split.smk"
    include: "workflow/rules/plan.smk"
    include: "workflow/rules/preprocess.smk"
    include: "workflow/rules/pretrain.smk"
    include: "workflow/rules/tune.smk"
    include: "workflow/rules/finetune.smk"
    include: "workflow/rules/selftrain.smk"
    include: "workflow/rules/predict.smk"
    include: "workflow/rules/evaluate.smk"
    include: "workflow/rules/bound.smk"
    include: "workflow/rules/ensemble.smk"
    include: "workflow/rules/report.smk"
