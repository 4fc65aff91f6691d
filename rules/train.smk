rule train:
    input:
        pack_files("{dataset}"),
        lambda w: maps_of(w.dataset, w.method),
    output:
        run_files("{dataset}", "{method}", "{seed}"),
    log:
        f"{LOGS}/train/{{dataset}}-{{method}}-{{seed}}.log",
    wildcard_constraints:
        method=method_pattern(PARAMS.ablation),
    params:
        file=params_and_replace,
        settings=lambda w: settings_of(w.dataset)[f"runs/{w.method}"],
    threads: train_threads
    resources:
        gpu=gpus_here,
        nodes=nodes,
        **OVER_NODES,
    shell:
        "lapml train {wildcards.dataset} {wildcards.method} {wildcards.seed} --params {params.file} > {log} 2>&1 && tail -n 2 {log}"


use rule train as train_tuned with:
    input:
        pack_files("{dataset}"),
        PATHS.tuned("{dataset}", "{method}"),
        lambda w: maps_of(w.dataset, w.method),
    wildcard_constraints:
        method=method_pattern(PARAMS.tuned_methods),
