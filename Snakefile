from snakemake.utils import min_version

min_version("9.18")

# It says which Python lapml is made for, as --lint wants it said; nothing is run in it (rules/common.smk).
container: "docker://python:3.11"

include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/localise.smk"
include: "rules/tune.smk"
include: "rules/train.smk"
include: "rules/report.smk"

localrules: all, fetch, report  # not submitted to a cluster, whose machines may reach no network

rule all:
    default_target: True
    input:
        report_files(),
