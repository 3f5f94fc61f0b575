# Is the difference real? Scores with intervals, paired comparisons.


rule evaluate:
    input:
        spec=L.spec("evaluate", "{task}"),
        data=lambda w: JOBS.reads("evaluate", w.task),
    output:
        scores=L.evaluate("{task}", "scores.tsv"),
        comparisons=L.evaluate("{task}", "comparisons.tsv"),
        cases=L.evaluate("{task}", "cases.parquet"),
        receipt=L.evaluate("{task}", "receipt.json"),
    log:
        L.log("evaluate", "{task}"),
    benchmark:
        L.benchmark("evaluate", "{task}")
    conda:
        ENVIRONMENT
    shell:
        "medssl evaluate {input.spec} --threads {threads} --log {log}"
