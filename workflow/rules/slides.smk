rule slides_phantom:
    output:
        f"{study.root}/phantom/phantom.json",
    log:
        f"{study.root}/log/slides_phantom.log",
    benchmark:
        f"{study.root}/benchmark/slides_phantom.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=study.phantom,
        out=study.folder,
    shell:
        "python -m medcl slides-phantom --settings {params.settings:q} --out {params.out}"
        " 2>&1 | tee {log}"


rule slides_ingest:
    input:
        study.phantom_of,
    output:
        slides=f"{study.root}/ingest/slides.csv",
        findings=f"{study.root}/ingest/ingest.json",
    log:
        f"{study.root}/log/slides_ingest.log",
    benchmark:
        f"{study.root}/benchmark/slides_ingest.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=study.dataset,
        decides=study.dataset_decides,
        fingerprint=study.fingerprint,
        out=study.folder,
    shell:
        "python -m medcl slides-ingest --settings {params.settings:q} --out {params.out}"
        " 2>&1 | tee {log}"


rule slides_split:
    input:
        slides=f"{study.root}/ingest/slides.csv",
        findings=f"{study.root}/ingest/ingest.json",
    output:
        folds=f"{study.root}/split/folds.csv",
        audit=f"{study.root}/split/audit.json",
    log:
        f"{study.root}/log/slides_split.log",
    benchmark:
        f"{study.root}/benchmark/slides_split.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=study.split,
        classes=study.classes,
        out=study.folder,
    shell:
        "python -m medcl slides-split --settings {params.settings:q} --classes {params.classes:q}"
        " --slides {input.slides} --findings {input.findings} --out {params.out} 2>&1 | tee {log}"


rule tile:
    input:
        slides=f"{study.root}/ingest/slides.csv",
        findings=f"{study.root}/ingest/ingest.json",  # holds a hash of each mask
    output:
        f"{study.root}/tile/tiles.json",
    log:
        f"{study.root}/log/tile.log",
    benchmark:
        f"{study.root}/benchmark/tile.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=study.tiles,
        out=study.folder,
    shell:
        "python -m medcl tile --settings {params.settings:q} --slides {input.slides}"
        " --out {params.out} 2>&1 | tee {log}"


rule slides_pretrain:
    input:
        folds=f"{study.root}/split/folds.csv",
        tiles=f"{study.root}/tile/tiles.json",
        weights=lambda wildcards: study.study.encoders[wildcards.encoder].weights or [],
    output:
        encoder=f"{study.root}/pretrain/{{encoder}}/f{{fold}}/s{{seed}}/encoder.pt",
        steps=f"{study.root}/pretrain/{{encoder}}/f{{fold}}/s{{seed}}/log.csv",
        summary=f"{study.root}/pretrain/{{encoder}}/f{{fold}}/s{{seed}}/summary.json",
    log:
        f"{study.root}/log/slides_pretrain.{{encoder}}.f{{fold}}.s{{seed}}.log",
    benchmark:
        f"{study.root}/benchmark/slides_pretrain.{{encoder}}.f{{fold}}.s{{seed}}.tsv"
    threads: 1
    resources:
        mem_mb=16000,
        runtime=2880,
        gpu=study.gpu,
    params:
        settings=study.encoder,
        decides=study.encoder_decides,
        network=study.network,
        examined=f"{study.root}/ingest/slides",
        out=study.folder,
        work=f"{study.root}/state/pretrain/{{encoder}}/f{{fold}}/s{{seed}}",
    shell:
        "python -m medcl slides-pretrain --settings {params.settings:q}"
        " --network {params.network:q} --folds {input.folds} --tiles {input.tiles}"
        " --examined {params.examined} --fold {wildcards.fold} --seed {wildcards.seed}"
        " --out {params.out} --work {params.work} --threads {threads} --devices {resources.gpu} 2>&1 | tee -a {log}"


rule embed:
    input:
        encoder=f"{study.root}/pretrain/{{encoder}}/f{{fold}}/s{{seed}}/encoder.pt",
        folds=f"{study.root}/split/folds.csv",
        tiles=f"{study.root}/tile/tiles.json",
    output:
        f"{study.root}/embed/{{encoder}}/f{{fold}}/s{{seed}}/embed.json",
    log:
        f"{study.root}/log/embed.{{encoder}}.f{{fold}}.s{{seed}}.log",
    benchmark:
        f"{study.root}/benchmark/embed.{{encoder}}.f{{fold}}.s{{seed}}.tsv"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=study.gpu,
    params:
        out=study.folder,
    shell:
        "python -m medcl embed --encoder {input.encoder} --folds {input.folds}"
        " --tiles {input.tiles} --out {params.out} --threads {threads} 2>&1 | tee -a {log}"


rule mil:
    input:
        embedded=study.embedded,
        folds=f"{study.root}/split/folds.csv",
    output:
        model=f"{study.root}/mil/{{encoder}}/{{aggregator}}/f{{fold}}/r{{replicate}}/model.pt",
        steps=f"{study.root}/mil/{{encoder}}/{{aggregator}}/f{{fold}}/r{{replicate}}/log.csv",
        summary=f"{study.root}/mil/{{encoder}}/{{aggregator}}/f{{fold}}/r{{replicate}}/summary.json",
        predictions=f"{study.root}/mil/{{encoder}}/{{aggregator}}/f{{fold}}/r{{replicate}}/predictions.csv",
        scores=f"{study.root}/mil/{{encoder}}/{{aggregator}}/f{{fold}}/r{{replicate}}/scores.h5",
    log:
        f"{study.root}/log/mil.{{encoder}}.{{aggregator}}.f{{fold}}.r{{replicate}}.log",
    benchmark:
        f"{study.root}/benchmark/mil.{{encoder}}.{{aggregator}}.f{{fold}}.r{{replicate}}.tsv"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=study.gpu,
    params:
        settings=study.mil,
        decides=study.mil_decides,
        aggregator=study.aggregator,
        classes=study.classes,
        out=study.folder,
        work=f"{study.root}/state/mil/{{encoder}}/{{aggregator}}/f{{fold}}/r{{replicate}}",
    shell:
        "python -m medcl mil --settings {params.settings:q} --aggregator {params.aggregator:q}"
        " --classes {params.classes:q} --embedded {input.embedded} --folds {input.folds}"
        " --fold {wildcards.fold} --seed {wildcards.replicate} --out {params.out}"
        " --work {params.work} --threads {threads} 2>&1 | tee -a {log}"


rule slides_evaluate:
    input:
        runs=study.runs,
        folds=f"{study.root}/split/folds.csv",
        tiles=f"{study.root}/tile/tiles.json",
        findings=f"{study.root}/ingest/ingest.json",
    output:
        patients=f"{study.root}/evaluate/{{encoder}}/{{aggregator}}/patients.csv",
        metrics=f"{study.root}/evaluate/{{encoder}}/{{aggregator}}/metrics.json",
    log:
        f"{study.root}/log/slides_evaluate.{{encoder}}.{{aggregator}}.log",
    benchmark:
        f"{study.root}/benchmark/slides_evaluate.{{encoder}}.{{aggregator}}.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        runs=study.folders,
        classes=study.classes,
        truth=study.study.dataset.truth,
        examined=f"{study.root}/ingest/slides",
        out=study.folder,
    shell:
        "python -m medcl slides-evaluate --runs {params.runs} --classes {params.classes:q}"
        " --truth {params.truth} --folds {input.folds} --tiles {input.tiles}"
        " --examined {params.examined} --out {params.out} 2>&1 | tee {log}"


rule heatmap:
    input:
        scores=f"{study.root}/mil/{{encoder}}/{{aggregator}}/f{{fold}}/r0/scores.h5",
        folds=f"{study.root}/split/folds.csv",
        tiles=f"{study.root}/tile/tiles.json",
    output:
        f"{study.root}/heatmap/{{encoder}}/{{aggregator}}/f{{fold}}/heatmap.json",
    log:
        f"{study.root}/log/heatmap.{{encoder}}.{{aggregator}}.f{{fold}}.log",
    benchmark:
        f"{study.root}/benchmark/heatmap.{{encoder}}.{{aggregator}}.f{{fold}}.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        examined=f"{study.root}/ingest/slides",
        out=study.folder,
    shell:
        "python -m medcl heatmap --scores {input.scores} --folds {input.folds}"
        " --tiles {input.tiles} --examined {params.examined} --out {params.out} 2>&1 | tee {log}"


rule slides_report:
    input:
        made=study.made(),
        findings=f"{study.root}/ingest/ingest.json",
        audit=f"{study.root}/split/audit.json",
        tiles=f"{study.root}/tile/tiles.json",
    output:
        page=f"{study.root}/report.html",
        table=f"{study.root}/comparison.csv",
    log:
        f"{study.root}/log/slides_report.log",
    benchmark:
        f"{study.root}/benchmark/slides_report.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        study=study.report,
        command=f"{study.root}/command.txt",
        out=study.folder,
    shell:
        "python -m medcl slides-report --study {params.out}/config.resolved.yaml"
        ' --out {params.out} --command "$(cat {params.command})" 2>&1 | tee {log}'
