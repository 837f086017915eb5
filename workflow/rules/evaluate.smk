rule evaluate:
    input:
        predictions=f"{study.root}/finetune/{{arm}}/n{{labelled}}/r{{replicate}}/predictions/predictions.json",
        cases=f"{study.root}/ingest/cases.csv",
        plan=f"{study.root}/plan/plan.yaml",
    output:
        f"{study.root}/finetune/{{arm}}/n{{labelled}}/r{{replicate}}/metrics.csv",
    log:
        f"{study.root}/log/evaluate.{{arm}}.n{{labelled}}.r{{replicate}}.log",
    benchmark:
        f"{study.root}/benchmark/evaluate.{{arm}}.n{{labelled}}.r{{replicate}}.tsv"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        settings=study.evaluate,
        out=study.folder,
    shell:
        "python -m medcl evaluate --settings {params.settings:q} --predictions {input.predictions}"
        " --cases {input.cases} --plan {input.plan} --out {params.out} 2>&1 | tee {log}"
