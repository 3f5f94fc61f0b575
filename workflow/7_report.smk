# Can somebody else judge and repeat it? One offline page per cohort, and `study` for everything.


rule page:
    input:
        spec=L.spec("report", "{page}"),
        data=lambda w: JOBS.reads("report", w.page),
    output:
        html=L.report("{page}", "report.html"),
        json=L.report("{page}", "report.json"),
        receipt=L.report("{page}", "receipt.json"),
    log:
        L.log("report", "{page}"),
    benchmark:
        L.benchmark("report", "{page}")
    conda:
        ENVIRONMENT
    shell:
        "medssl report {input.spec} --log {log}"
