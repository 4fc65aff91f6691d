rule report:
    input:
        [pack_files(dataset) for dataset in PARAMS.datasets],
        [PATHS.tuned(dataset, method) for dataset in PARAMS.datasets for method in PARAMS.tuned_rows],
        all_runs(),
    output:
        report_files()[:-1],
        page=report(report_files()[-1], category="Report"),
    log:
        f"{LOGS}/report.log",
    params:
        settings=PARAMS.model_dump(mode="json", include={"datasets", "rows", "tuned_rows", "seeds", "read", "report"}),
    shell:
        f"lapml report --params {PARAMS_FILE} > {{log}} 2>&1"
