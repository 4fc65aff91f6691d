# Nested: adaptive_margin is tuned with the (m, alpha) that margin found.
rule tune_margin:
    input:
        pack_files("{dataset}"),
    output:
        PATHS.tuned("{dataset}", "margin"),
    log:
        f"{LOGS}/tune/{{dataset}}-margin.log",
    params:
        settings=lambda w: tune_settings(w.dataset, "margin"),
    threads: train_threads
    priority: 10  # the longest chain of the suite starts first
    resources:
        gpu=gpus,
    shell:
        f"lapml tune {{wildcards.dataset}} --method margin --params {PARAMS_FILE} > {{log}} 2>&1"


rule tune_adaptive:
    input:
        pack_files("{dataset}"),
        PATHS.tuned("{dataset}", "margin"),
    output:
        PATHS.tuned("{dataset}", "adaptive_margin"),
    log:
        f"{LOGS}/tune/{{dataset}}-adaptive_margin.log",
    params:
        settings=lambda w: tune_settings(w.dataset, "adaptive_margin"),
    threads: train_threads
    priority: 10
    resources:
        gpu=gpus,
    shell:
        f"lapml tune {{wildcards.dataset}} --method adaptive_margin --params {PARAMS_FILE} > {{log}} 2>&1"
