rule fetch:
    output:
        f"results/{PARAMS.suite}/data/{{dataset}}/source.json",
    log:
        f"{LOGS}/fetch/{{dataset}}.log",
    params:
        file=params_file,
        settings=lambda w: settings_of(w.dataset)["fetch"],
    shell:
        "lapml data fetch {wildcards.dataset} --params {params.file} > {log} 2>&1"


rule prepare:
    input:
        PATHS.source("{dataset}"),
    output:
        pack_files("{dataset}"),
    log:
        f"{LOGS}/prepare/{{dataset}}.log",
    params:
        file=params_file,
        settings=lambda w: settings_of(w.dataset)["prepare"],
    threads: workflow.resource_settings.cores or 1  # no limit on cores (a cluster): its profile sets them
    shell:
        "lapml data prepare {wildcards.dataset} --params {params.file} > {log} 2>&1"
