# Any settings of any method (tune.methods).
rule tune:
    input:
        pack_files("{dataset}"),
        lambda w: maps_of(w.dataset, w.method),
    output:
        PATHS.tuned("{dataset}", "{method}"),
    log:
        f"{LOGS}/tune/{{dataset}}-{{method}}.log",
    wildcard_constraints:
        method=method_pattern([method for method in PARAMS.tune.methods if method not in ("margin", "adaptive_margin")]),
    params:
        file=params_file,
        settings=lambda w: settings_of(w.dataset)[f"studies/{w.method}"],
    threads: train_threads
    priority: 10  # what is trained with them waits
    resources:
        gpu=gpus_here,
        nodes=nodes,
        **OVER_NODES,
    shell:
        "lapml tune {wildcards.dataset} --method {wildcards.method} --params {params.file} > {log} 2>&1"


use rule tune as tune_margin with:
    wildcard_constraints:
        method="margin",


# Nested: adaptive_margin is tuned with the (m, weight) that margin found.
use rule tune as tune_adaptive with:
    input:
        pack_files("{dataset}"),
        [PATHS.tuned("{dataset}", "margin")] if "margin" in PARAMS.studies() else [],
        lambda w: maps_of(w.dataset, w.method),
    wildcard_constraints:
        method="adaptive_margin",
