rule split:
    input:
        cases=f"{study.root}/ingest/cases.csv",
        thumbnails=f"{study.root}/ingest/thumbnails.npy",
    output:
        splits=f"{study.root}/split/splits.csv",
        audit=f"{study.root}/split/audit.json",
    log:
        f"{study.root}/log/split.log",
    benchmark:
        f"{study.root}/benchmark/split.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=study.split,
        subjects=study.study.dataset.subjects,
        out=study.folder,
    shell:
        "python -m medcl split --settings {params.settings:q} --subjects {params.subjects}"
        " --cases {input.cases} --thumbnails {input.thumbnails} --out {params.out}"
        " 2>&1 | tee {log}"
