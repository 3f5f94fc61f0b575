# medssl: the whole DAG at a glance.
#
#   snakemake --cores all pretrain_ct                                   the default study (configs/ct.yaml)
#   snakemake --cores all pretrain_ct --configfile configs/mine.yaml    your own
#   snakemake --cores all report                                        on to fine-tuning, evaluation and the full page
#
# `medssl run pretrain_ct --config mine.yaml` is the same from any folder.

from medssl.study.workflow import default_study

if not workflow.overwrite_configfiles:

    configfile: default_study()


include: "workflow/paths.smk"
include: "workflow/1_ingest.smk"
include: "workflow/2_prepare.smk"
include: "workflow/3_reduce.smk"
include: "workflow/4_pretrain.smk"
include: "workflow/5_finetune.smk"
include: "workflow/6_evaluate.smk"
include: "workflow/7_report.smk"


# Targets: pretrain_<cohort> for every cohort that a run pre-trains on, report for everything.
localrules:
    all,
    report,


rule all:
    input:
        L.report("study", "report.html"),
        JOBS.artefacts("study"),


rule report:
    input:
        L.report("study", "report.html"),
        JOBS.artefacts("study"),


for cohort in JOBS.cohorts():

    rule:
        name:
            f"pretrain_{cohort}"
        localrule: True
        input:
            [L.pretrain(c, str(run), "encoder.safetensors") for c, run in JOBS.runs(cohort)],
            L.report(cohort, "report.html"),
            JOBS.artefacts(cohort),


onstart:
    RUN.start(workflow)


onsuccess:
    RUN.succeed()


onerror:
    RUN.fail()
