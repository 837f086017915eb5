rule preprocess:
    input:
        cases=f"{study.root}/ingest/cases.csv",
        splits=f"{study.root}/split/splits.csv",
        plan=f"{study.root}/plan/plan.yaml",
    output:
        f"{study.root}/store/manifest.json",
    log:
        f"{study.root}/log/preprocess.log",
    benchmark:
        f"{study.root}/benchmark/preprocess.tsv"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=720,
    params:
        out=study.folder,
        work=f"{study.root}/state/preprocess",
    shell:
        "python -m medcl preprocess --cases {input.cases} --splits {input.splits}"
        " --plan {input.plan} --out {params.out} --work {params.work}"
        " --threads {threads} 2>&1 | tee {log}"
