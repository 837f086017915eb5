# The full-label bound: the same stages on every labelled candidate.
use rule finetune as finetune_bound with:
    output:
        model=f"{study.root}/bound/{{arm}}/r{{replicate}}/model.pt",
        steps=f"{study.root}/bound/{{arm}}/r{{replicate}}/log.csv",
        summary=f"{study.root}/bound/{{arm}}/r{{replicate}}/summary.json",
    log:
        f"{study.root}/log/finetune_bound.{{arm}}.r{{replicate}}.log",
    benchmark:
        f"{study.root}/benchmark/finetune_bound.{{arm}}.r{{replicate}}.tsv"
    params:
        settings=study.finetune,
        decides=study.finetune_decides,
        network=study.network,
        labelled="all",
        out=study.folder,
        work=f"{study.root}/state/bound/{{arm}}/r{{replicate}}",


use rule predict as predict_bound with:
    input:
        model=f"{study.root}/bound/{{arm}}/r{{replicate}}/model.pt",
        cases=f"{study.root}/ingest/cases.csv",
        splits=f"{study.root}/split/splits.csv",
        findings=f"{study.root}/ingest/ingest.json",
    output:
        f"{study.root}/bound/{{arm}}/r{{replicate}}/predictions/predictions.json",
    log:
        f"{study.root}/log/predict_bound.{{arm}}.r{{replicate}}.log",
    benchmark:
        f"{study.root}/benchmark/predict_bound.{{arm}}.r{{replicate}}.tsv"


use rule evaluate as evaluate_bound with:
    input:
        predictions=f"{study.root}/bound/{{arm}}/r{{replicate}}/predictions/predictions.json",
        cases=f"{study.root}/ingest/cases.csv",
        plan=f"{study.root}/plan/plan.yaml",
    output:
        f"{study.root}/bound/{{arm}}/r{{replicate}}/metrics.csv",
    log:
        f"{study.root}/log/evaluate_bound.{{arm}}.r{{replicate}}.log",
    benchmark:
        f"{study.root}/benchmark/evaluate_bound.{{arm}}.r{{replicate}}.tsv"
