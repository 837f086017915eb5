rule finetune:
    input:
        store=f"{study.root}/store/manifest.json",
        splits=f"{study.root}/split/splits.csv",
        plan=f"{study.root}/plan/plan.yaml",
        encoder=study.encoder_of,
        tuned=study.tuned_of,
        cost=study.cost_of,
        pace=study.pace_of,
    output:
        model=f"{study.root}/finetune/{{arm}}/n{{labelled}}/r{{replicate}}/model.pt",
        steps=f"{study.root}/finetune/{{arm}}/n{{labelled}}/r{{replicate}}/log.csv",
        summary=f"{study.root}/finetune/{{arm}}/n{{labelled}}/r{{replicate}}/summary.json",
    log:
        f"{study.root}/log/finetune.{{arm}}.n{{labelled}}.r{{replicate}}.log",
    benchmark:
        f"{study.root}/benchmark/finetune.{{arm}}.n{{labelled}}.r{{replicate}}.tsv"
    wildcard_constraints:
        arm=study.arms_of(selftrain=False),
    threads: study.threads
    resources:
        mem_mb=16000,
        runtime=1440,
        gpu=study.gpu,
    params:
        settings=study.finetune,
        decides=study.finetune_decides,
        network=study.network,
        labelled="{labelled}",
        out=study.folder,
        work=f"{study.root}/state/finetune/{{arm}}/n{{labelled}}/r{{replicate}}",
    shell:
        "python -m medcl finetune --settings {params.settings:q} --network {params.network:q}"
        " --store {input.store} --splits {input.splits} --plan {input.plan}"
        " --labelled {params.labelled} --replicate {wildcards.replicate}"
        " --encoder={input.encoder} --tuned={input.tuned} --cost-of={input.cost}"
        " --pace={input.pace} --out {params.out} --work {params.work}"
        " --devices {resources.gpu} 2>&1 | tee -a {log}"
