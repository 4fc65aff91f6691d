from snakemake.utils import min_version

min_version("9.18")

container: "docker://python:3.11"

include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/localise.smk"
include: "rules/tune.smk"
include: "rules/train.smk"
include: "rules/report.smk"

rule all:
    default_target: True
    input:
        report_files(),
