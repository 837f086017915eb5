rule ingest:
    input:
        study.phantom_of,
    output:
        cases=f"{study.root}/ingest/cases.csv",
        findings=f"{study.root}/ingest/ingest.json",
        thumbnails=f"{study.root}/ingest/thumbnails.npy",
    log:
        f"{study.root}/log/ingest.log",
    benchmark:
        f"{study.root}/benchmark/ingest.tsv"
    threads: 8
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        settings=study.sources,
        pretrain_on=study.pretrain_on,
        fingerprint=study.fingerprint,
        out=study.folder,
    shell:
        "python -m medcl ingest --settings {params.settings:q} {params.pretrain_on:q}"
        " --out {params.out} --threads {threads} 2>&1 | tee {log}"
