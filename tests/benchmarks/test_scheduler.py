"""What Snakemake's log says of how long jobs took."""

from benchmarks.scheduler import durations

LOG = """\
Execute 2 jobs...

[Fri Nov  6 23:59:50 2026]
rule train:
    output: results/tiny/runs/birds/baseline/0/config.json
    jobid: 3
    resources: gpu=1

[Fri Nov  6 23:59:50 2026]
localrule fetch:
    jobid: 1
Job 3 has been submitted with SLURM jobid 7 (log: 7.log).
[Fri Nov  6 23:59:55 2026]
Finished jobid: 1 (Rule: fetch)
1 of 3 steps (33%) done
[Sat Nov  7 00:00:01 2026]
Error in rule train:
    jobid: 3
Trying to restart job 3.

[Sat Nov  7 00:00:01 2026]
rule train:
    jobid: 3
[Sat Nov  7 00:00:20 2026]
Finished jobid: 3 (Rule: train)
[Sat Nov  7 00:00:20 2026]
localrule all:
    jobid: 0
"""


def test_durations_by_snakemakes_log():
    assert durations(LOG) == {"fetch": [5.0], "train": [30.0]}
