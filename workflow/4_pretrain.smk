# What can be learnt without labels? Resume state lies outside the outputs, so a killed job goes on where it was.


rule pretrain:
    input:
        spec=L.spec("pretrain", "{cohort}/{run}"),
        data=lambda w: JOBS.reads("pretrain", f"{w.cohort}/{w.run}"),
    output:
        encoder=L.pretrain("{cohort}", "{run}", "encoder.safetensors"),
        parts=L.pretrain("{cohort}", "{run}", "parts.safetensors"),
        contract=L.pretrain("{cohort}", "{run}", "contract.json"),
        curve=L.pretrain("{cohort}", "{run}", "curve.tsv"),
        embeddings=L.pretrain("{cohort}", "{run}", "embeddings.parquet"),
        views=L.pretrain("{cohort}", "{run}", "views.png"),
        receipt=L.pretrain("{cohort}", "{run}", "receipt.json"),
    log:
        L.log("pretrain", "{cohort}-{run}"),
    benchmark:
        L.benchmark("pretrain", "{cohort}-{run}")
    conda:
        ENVIRONMENT
    threads: threads_each(workflow, len(JOBS.runs()))
    resources:
        gpu=lambda w: JOBS.machine(w.run, "gpu"),
        nodes=lambda w: JOBS.machine(w.run, "nodes"),
        tasks=lambda w: JOBS.machine(w.run, "tasks"),
        mpi=lambda w: JOBS.machine(w.run, "mpi"),
        gres=lambda w: JOBS.machine(w.run, "gres"),
        tasks_per_gpu=lambda w: JOBS.machine(w.run, "tasks_per_gpu"),
    shell:
        "medssl pretrain {input.spec} --threads {threads} --log {log}"
