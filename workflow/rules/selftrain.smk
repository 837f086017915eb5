rule selftrain:
    input:
        store=f"{study.root}/store/manifest.json",
        splits=f"{study.root}/split/splits.csv",
        plan=f"{study.root}/plan/plan.yaml",
        model=study.teacher_of,
        encoder=study.encoder_of,
        tuned=study.tuned_of,
    output:
        model=f"{study.root}/finetune/{{arm}}/n{{labelled}}/r{{replicate}}/model.pt",
        steps=f"{study.root}/finetune/{{arm}}/n{{labelled}}/r{{replicate}}/log.csv",
        summary=f"{study.root}/finetune/{{arm}}/n{{labelled}}/r{{replicate}}/summary.json",
    log:
        f"{study.root}/log/selftrain.{{arm}}.n{{labelled}}.r{{replicate}}.log",
    benchmark:
        f"{study.root}/benchmark/finetune.{{arm}}.n{{labelled}}.r{{replicate}}.tsv"
    wildcard_constraints:
        arm=study.arms_of(selftrain=True),
    threads: study.threads
    resources:
        mem_mb=16000,
        runtime=2880,
        gpu=study.gpu,
    params:
        settings=study.selftrain,
        finetune=study.finetune,
        decides=study.finetune_decides,
        network=study.network,
        out=study.folder,
        work=f"{study.root}/state/finetune/{{arm}}/n{{labelled}}/r{{replicate}}",
    shell:
        "python -m medcl selftrain --settings {params.settings:q}"
        " --finetune {params.finetune:q} --network {params.network:q}"
        " --store {input.store} --splits {input.splits} --plan {input.plan}"
        " --labelled {wildcards.labelled} --replicate {wildcards.replicate}"
        " --model {input.model} --encoder={input.encoder} --tuned={input.tuned}"
        " --out {params.out} --work {params.work}"
        " --devices {resources.gpu} 2>&1 | tee -a {log}"
