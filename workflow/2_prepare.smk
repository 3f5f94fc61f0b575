# What does the network see? Arrays on one orientation, slices, split, fingerprint.


rule prepare:
    input:
        spec=L.spec("prepare", "{source}"),
        series=L.ingest("{source}", "series.tsv"),
        receipt=L.ingest("{source}", "receipt.json"),
    output:
        volumes=L.prepare("{source}", "volumes.tsv"),
        samples=L.prepare("{source}", "samples.parquet"),
        fingerprint=L.prepare("{source}", "fingerprint.json"),
        receipt=L.prepare("{source}", "receipt.json"),
    log:
        L.log("prepare", "{source}"),
    benchmark:
        L.benchmark("prepare", "{source}")
    conda:
        ENVIRONMENT
    priority: BEFORE_TRAINING
    threads: threads_of_data(workflow, len(JOBS.study.sources))
    shell:
        "medssl prepare {input.spec} --threads {threads} --log {log}"
