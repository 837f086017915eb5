rule tune:
    input:
        store=f"{study.root}/store/manifest.json",
        splits=f"{study.root}/split/splits.csv",
        plan=f"{study.root}/plan/plan.yaml",
        encoder=study.encoder_of,
    output:
        f"{study.root}/tune/{{arm}}/tuned.yaml",
    log:
        f"{study.root}/log/tune.{{arm}}.log",
    benchmark:
        f"{study.root}/benchmark/tune.{{arm}}.tsv"
    threads: study.threads
    resources:
        mem_mb=16000,
        runtime=2880,
        gpu=study.gpu,
    params:
        settings=study.finetune,
        decides=study.finetune_decides,
        tune=study.tune,
        network=study.network,
        out=study.folder,
        work=f"{study.root}/state/tune/{{arm}}",
    shell:
        "python -m medcl tune --settings {params.settings:q} --tune {params.tune:q}"
        " --network {params.network:q} --store {input.store} --splits {input.splits}"
        " --plan {input.plan} --encoder={input.encoder} --out {params.out} --work {params.work}"
        " --devices {resources.gpu} 2>&1 | tee -a {log}"
