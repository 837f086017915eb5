rule predict:
    input:
        model=f"{study.root}/finetune/{{arm}}/n{{labelled}}/r{{replicate}}/model.pt",
        cases=f"{study.root}/ingest/cases.csv",
        splits=f"{study.root}/split/splits.csv",
        findings=f"{study.root}/ingest/ingest.json",
    output:
        f"{study.root}/finetune/{{arm}}/n{{labelled}}/r{{replicate}}/predictions/predictions.json",
    log:
        f"{study.root}/log/predict.{{arm}}.n{{labelled}}.r{{replicate}}.log",
    benchmark:
        f"{study.root}/benchmark/predict.{{arm}}.n{{labelled}}.r{{replicate}}.tsv"
    threads: study.threads
    resources:
        mem_mb=16000,
        runtime=240,
        gpu=study.gpu,
    params:
        settings=study.predict,
        out=study.folder,
    shell:
        "python -m medcl predict --settings {params.settings:q} --model {input.model}"
        " --cases {input.cases} --splits {input.splits} --findings {input.findings}"
        " --out {params.out} 2>&1 | tee {log}"
