rule pretrain:
    input:
        store=f"{study.root}/store/manifest.json",
        splits=f"{study.root}/split/splits.csv",
        plan=f"{study.root}/plan/plan.yaml",
    output:
        encoder=f"{study.root}/pretrain/{{arm}}/s{{seed}}/encoder.pt",
        steps=f"{study.root}/pretrain/{{arm}}/s{{seed}}/log.csv",
        summary=f"{study.root}/pretrain/{{arm}}/s{{seed}}/summary.json",
    log:
        f"{study.root}/log/pretrain.{{arm}}.s{{seed}}.log",
    benchmark:
        f"{study.root}/benchmark/pretrain.{{arm}}.s{{seed}}.tsv"
    threads: study.threads
    resources:
        mem_mb=16000,
        runtime=2880,
        gpu=study.gpu,
    params:
        settings=study.pretrain,
        decides=study.pretrain_decides,
        network=study.network,
        out=study.folder,
        work=f"{study.root}/state/pretrain/{{arm}}/s{{seed}}",
    shell:
        "python -m medcl pretrain --settings {params.settings:q} --network {params.network:q}"
        " --store {input.store} --splits {input.splits} --plan {input.plan}"
        " --seed {wildcards.seed} --out {params.out} --work {params.work}"
        " --devices {resources.gpu} 2>&1 | tee -a {log}"
