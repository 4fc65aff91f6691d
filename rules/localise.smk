rule localise:
    input:
        PATHS.source("{dataset}"),
        pack_files("{dataset}"),
    output:
        directory(PATHS.localised("{dataset}")),
    log:
        f"{LOGS}/localise/{{dataset}}.log",
    params:
        file=params_file,
        settings=lambda w: settings_of(w.dataset)["localise"],
    threads: lambda w: train_params(w.dataset).threads
    priority: 20  # everything that mixes by it waits
    resources:
        gpu=lambda w: min(1, gpus(w)),  # one process, whatever training takes
    shell:
        "lapml localise {wildcards.dataset} --params {params.file} > {log} 2>&1"
