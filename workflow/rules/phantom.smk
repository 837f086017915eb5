rule phantom:
    output:
        f"{study.root}/phantom/phantom.json",
    log:
        f"{study.root}/log/phantom.log",
    benchmark:
        f"{study.root}/benchmark/phantom.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=study.phantom,
        out=study.folder,
    shell:
        "python -m medcl phantom --settings {params.settings:q} --out {params.out} 2>&1 | tee {log}"
