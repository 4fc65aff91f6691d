rule diagnose:
    input:
        PATHS.source("{dataset}"),
        pack_files("{dataset}"),
        lambda w: expand(run_files(w.dataset, PARAMS.diagnose.method, "{seed}"), seed=PARAMS.seeds),
        lambda w: maps_of(w.dataset),
    output:
        diagnosis_files("{dataset}"),
    log:
        f"{LOGS}/diagnose/{{dataset}}.log",
    params:
        file=params_file,
        settings=lambda w: settings_of(w.dataset)["diagnosis"],
    threads: lambda w: train_params(w.dataset).threads
    resources:
        gpu=lambda w: min(1, gpus(w)),  # one process, whatever training takes
    shell:
        "lapml diagnose {wildcards.dataset} --params {params.file} > {log} 2>&1"


rule report:
    input:
        [pack_files(dataset) for dataset in PARAMS.datasets],
        [PATHS.tuned(dataset, method) for dataset in PARAMS.datasets for method in PARAMS.tuned_methods],
        expand(run_files("{dataset}", "{method}", "{seed}"), dataset=PARAMS.datasets, method=PARAMS.all_methods(), seed=PARAMS.seeds),
        [diagnosis_files(dataset) for dataset in PARAMS.datasets],
    output:
        report_files()[:-1],
        page=report(report_files()[-1], category="Report"),
    log:
        f"{LOGS}/report.log",
    params:
        file=params_file,
        settings=PARAMS.model_dump(mode="json", include={"datasets", "ablation", "tuned_methods", "seeds", "eval_split", "report"}),
    shell:
        "lapml report --params {params.file} > {log} 2>&1"
