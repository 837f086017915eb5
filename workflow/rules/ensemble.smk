# All replicates of an arm predict together; of no study that does not ask for it.
use rule predict as predict_ensemble with:
    input:
        model=study.members_of,
        cases=f"{study.root}/ingest/cases.csv",
        splits=f"{study.root}/split/splits.csv",
        findings=f"{study.root}/ingest/ingest.json",
    output:
        f"{study.root}/finetune/{{arm}}/n{{labelled}}/ensemble/predictions/predictions.json",
    log:
        f"{study.root}/log/predict_ensemble.{{arm}}.n{{labelled}}.log",
    benchmark:
        f"{study.root}/benchmark/predict_ensemble.{{arm}}.n{{labelled}}.tsv"


use rule evaluate as evaluate_ensemble with:
    input:
        predictions=f"{study.root}/finetune/{{arm}}/n{{labelled}}/ensemble/predictions/predictions.json",
        cases=f"{study.root}/ingest/cases.csv",
        plan=f"{study.root}/plan/plan.yaml",
    output:
        f"{study.root}/finetune/{{arm}}/n{{labelled}}/ensemble/metrics.csv",
    log:
        f"{study.root}/log/evaluate_ensemble.{{arm}}.n{{labelled}}.log",
    benchmark:
        f"{study.root}/benchmark/evaluate_ensemble.{{arm}}.n{{labelled}}.tsv"
