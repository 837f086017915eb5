rule report:
    input:
        made=study.made(),
        audit=f"{study.root}/split/audit.json",
        findings=f"{study.root}/ingest/ingest.json",
    output:
        page=report(
            f"{study.root}/report.html",
            caption="../report/report.rst",
            category="Answer",
            labels={"page": "does pretraining help?"},
        ),
        table=report(
            f"{study.root}/comparison.csv",
            caption="../report/comparison.rst",
            category="Answer",
            labels={"page": "comparison table"},
        ),
    log:
        f"{study.root}/log/report.log",
    benchmark:
        f"{study.root}/benchmark/report.tsv"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        # The whole study, so that another title or label count writes another report.
        study=study.report,
        command=f"{study.root}/command.txt",
        out=study.folder,
    shell:
        "python -m medcl report --study {params.out}/config.resolved.yaml --out {params.out}"
        ' --command "$(cat {params.command})" 2>&1 | tee {log}'
