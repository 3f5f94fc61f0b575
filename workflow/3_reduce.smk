# Which slices are worth training on? Describe each slice once, find what the test sets share, then decide by arm.


rule reduce_describe:
    input:
        spec=L.spec("reduce", "{cohort}/describe"),
        data=lambda w: JOBS.reads("reduce", f"{w.cohort}/describe"),
    output:
        descriptors=L.describe("{cohort}", "descriptors.parquet"),
        receipt=L.describe("{cohort}", "receipt.json"),
    log:
        L.log("reduce", "{cohort}-describe"),
    benchmark:
        L.benchmark("reduce", "{cohort}-describe")
    conda:
        ENVIRONMENT
    priority: BEFORE_TRAINING
    threads: threads_of_data(workflow, len(JOBS.cohorts()))
    shell:
        "medssl reduce {input.spec} --step describe --threads {threads} --log {log}"


rule reduce_leakage:
    input:
        spec=L.spec("reduce", "{cohort}/leakage"),
        data=lambda w: JOBS.reads("reduce", f"{w.cohort}/leakage"),
    output:
        table=L.leakage("{cohort}", "leakage.parquet"),
        summary=L.leakage("{cohort}", "leakage.json"),
        receipt=L.leakage("{cohort}", "receipt.json"),
    log:
        L.log("reduce", "{cohort}-leakage"),
    benchmark:
        L.benchmark("reduce", "{cohort}-leakage")
    conda:
        ENVIRONMENT
    priority: BEFORE_TRAINING
    threads: threads_of_data(workflow, len(JOBS.cohorts()))
    shell:
        "medssl reduce {input.spec} --step leakage --threads {threads} --log {log}"


rule reduce:
    input:
        spec=L.spec("reduce", "{cohort}/{arm}"),
        data=lambda w: JOBS.reads("reduce", f"{w.cohort}/{w.arm}"),
    output:
        keep=L.reduce("{cohort}", "{arm}", "keep.parquet"),
        summary=L.reduce("{cohort}", "{arm}", "summary.json"),
        receipt=L.reduce("{cohort}", "{arm}", "receipt.json"),
    log:
        L.log("reduce", "{cohort}-{arm}"),
    benchmark:
        L.benchmark("reduce", "{cohort}-{arm}")
    conda:
        ENVIRONMENT
    priority: BEFORE_TRAINING
    threads: lambda w: threads_of_data(workflow, len(JOBS.cohorts())) if JOBS.embeds(w.arm) else 1
    shell:
        "medssl reduce {input.spec} --threads {threads} --log {log}"
