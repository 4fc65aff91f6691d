rule fetch:
    output:
        f"results/{PARAMS.suite}/data/{{dataset}}/source.json",
    log:
        f"{LOGS}/fetch/{{dataset}}.log",
    params:
        settings=lambda w: data_settings(w.dataset, "reader", "source", "drawn", "labels", "classes"),
    shell:
        f"lapml data fetch {{wildcards.dataset}} --params {PARAMS_FILE} > {{log}} 2>&1"


rule prepare:
    input:
        PATHS.source("{dataset}"),
    output:
        pack_files("{dataset}"),
    log:
        f"{LOGS}/prepare/{{dataset}}.log",
    params:
        settings=lambda w: PARAMS.data[w.dataset].packing(),
    threads: workflow.cores
    shell:
        f"lapml data prepare {{wildcards.dataset}} --params {PARAMS_FILE} > {{log}} 2>&1"
