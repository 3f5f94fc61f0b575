# What does pre-training buy with few labels? One job runs all fits of a task; on processors tasks share the cores.


rule finetune:
    input:
        spec=L.spec("finetune", "{task}"),
        data=lambda w: JOBS.reads("finetune", w.task),
    output:
        predictions=L.finetune("{task}", "predictions.parquet"),
        fits=L.finetune("{task}", "fits.tsv"),
        splits=L.finetune("{task}", "splits.parquet"),
        receipt=L.finetune("{task}", "receipt.json"),
    log:
        L.log("finetune", "{task}"),
    benchmark:
        L.benchmark("finetune", "{task}")
    conda:
        ENVIRONMENT
    threads: threads_each(workflow, len(JOBS.study.finetune))
    resources:
        gpu=lambda w: JOBS.task_machine(w.task, "gpu"),
        nodes=lambda w: JOBS.task_machine(w.task, "nodes"),
    shell:
        "medssl finetune {input.spec} --threads {threads} --log {log}"
