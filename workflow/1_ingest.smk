# What images do we really have? Scan headers, convert by shard, join the ledgers; label files and records apart, for what reads them alone.


rule ingest_scan:
    input:
        spec=L.spec("ingest", "{source}"),
        listing=L.listing("{source}"),
    output:
        L.private("{source}", "groups.jsonl.gz"),
    log:
        L.log("ingest", "{source}-scan"),
    benchmark:
        L.benchmark("ingest", "{source}-scan")
    conda:
        ENVIRONMENT
    priority: BEFORE_TRAINING
    threads: threads_of_data(workflow, len(JOBS.study.sources))
    shell:
        "medssl ingest {input.spec} --step scan --threads {threads} --log {log}"


rule ingest_convert:
    input:
        spec=L.spec("ingest", "{source}"),
        groups=L.private("{source}", "groups.jsonl.gz"),
    output:
        series=L.ingest("{source}", "shards/{shard}-of-{shards}/series.tsv"),
        rejected=L.ingest("{source}", "shards/{shard}-of-{shards}/rejected.tsv"),
        receipt=L.ingest("{source}", "shards/{shard}-of-{shards}/receipt.json"),
    log:
        L.log("ingest", "{source}-{shard}-of-{shards}"),
    benchmark:
        L.benchmark("ingest", "{source}-{shard}-of-{shards}")
    conda:
        ENVIRONMENT
    priority: BEFORE_TRAINING
    threads: threads_of_data(workflow, len(JOBS.study.sources))
    shell:
        "medssl ingest {input.spec} --step convert --shard {wildcards.shard} --threads {threads} --log {log}"


rule ingest:
    input:
        spec=L.spec("ingest", "{source}"),
        shards=lambda w: JOBS.shards(w.source),
    output:
        series=L.ingest("{source}", "series.tsv"),
        rejected=L.ingest("{source}", "rejected.tsv"),
        receipt=L.ingest("{source}", "receipt.json"),
    log:
        L.log("ingest", "{source}"),
    benchmark:
        L.benchmark("ingest", "{source}")
    conda:
        ENVIRONMENT
    priority: BEFORE_TRAINING
    shell:
        "medssl ingest {input.spec} --step merge --log {log}"


rule ingest_labels:
    input:
        spec=L.spec("ingest", "{source}/labels"),
        data=lambda w: JOBS.reads("ingest", f"{w.source}/labels"),
        receipt=L.ingest("{source}", "receipt.json"),
    output:
        labels=L.labels("{source}", "labels.parquet"),
        rejected=L.labels("{source}", "rejected.tsv"),
        summary=L.labels("{source}", "labels.json"),
        receipt=L.labels("{source}", "receipt.json"),
    log:
        L.log("ingest", "{source}-labels"),
    benchmark:
        L.benchmark("ingest", "{source}-labels")
    conda:
        ENVIRONMENT
    priority: BEFORE_TRAINING
    shell:
        "medssl ingest {input.spec} --step labels --log {log}"


rule ingest_record:
    input:
        spec=L.spec("ingest", "{source}/records/{column}"),
        data=lambda w: JOBS.reads("ingest", f"{w.source}/records/{w.column}"),
        receipt=L.ingest("{source}", "receipt.json"),
    output:
        record=L.record("{source}", "{column}", "record.parquet"),
        receipt=L.record("{source}", "{column}", "receipt.json"),
    log:
        L.log("ingest", "{source}-records-{column}"),
    benchmark:
        L.benchmark("ingest", "{source}-records-{column}")
    conda:
        ENVIRONMENT
    priority: BEFORE_TRAINING
    shell:
        "medssl ingest {input.spec} --step record --log {log}"
