rule plan:
    input:
        cases=f"{study.root}/ingest/cases.csv",
        splits=f"{study.root}/split/splits.csv",
    output:
        f"{study.root}/plan/plan.yaml",
    log:
        f"{study.root}/log/plan.log",
    benchmark:
        f"{study.root}/benchmark/plan.tsv"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        settings=study.dataset,
        out=study.folder,
    shell:
        "python -m medcl plan --settings {params.settings:q} --cases {input.cases}"
        " --splits {input.splits} --out {params.out} 2>&1 | tee {log}"
