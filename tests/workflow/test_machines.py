"""docs/usage.md, several machines: runs made in two folders are brought together in a third, weights too, by a DVC remote."""

import importlib.util
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from test_orchestrators import copy_project, dvc_init, run

from lapml.config import overlays

ROOT = Path(__file__).resolve().parents[2]
SUITE = "base: tiny.yaml\nablation: [baseline, cutmix]\ntuned_methods: []\n"
MISSING = [name for name in ("moto", "flask", "dvc_s3") if importlib.util.find_spec(name) is None]


@pytest.fixture
def bucket(tmp_path, monkeypatch) -> Iterator[tuple[str, str]]:
    """A bucket of an S3 server on this machine (moto's): its address, and the server's."""
    if MISSING:
        pytest.skip(f"found no {', '.join(MISSING)}: make test-s3 installs them")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = (tmp_path / "moto.log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        import boto3

        for _ in range(120):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.5)
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="runs")
        yield "s3://runs/lapml", address
    finally:
        server.terminate()
        server.wait()
        log.close()


def machine(folder: Path, remote: str, endpoint: str | None) -> Path:
    """A checkout on a machine of its own, that knows the remote."""
    folder.mkdir()
    copy_project(folder, None)
    (folder / "suites/two.yaml").write_text(SUITE)
    (folder / "params.yaml").write_text(overlays.composed(folder / "suites/two.yaml"))
    dvc_init(folder)
    run(folder, "dvc", "remote", "add", "--default", "runs", remote)
    if endpoint:
        run(folder, "dvc", "remote", "modify", "runs", "endpointurl", endpoint)
    return folder


def brought_together(tmp_path: Path, remote: str, endpoint: str | None = None) -> None:
    folders = [machine(tmp_path / name, remote, endpoint) for name in ("one", "two", "three")]
    methods = ("baseline", "cutmix")
    for folder, method in zip(folders, methods, strict=False):
        run(folder, "dvc", "repro", f"train@birds-{method}-0")
        run(folder, "dvc", "push", "--run-cache")
    run(folders[2], "dvc", "fetch", "--run-cache", ok=False)  # nothing that dvc.lock names: there is none yet
    said = run(folders[2], "dvc", "repro", "--pull")
    ran = re.findall(r"^> lapml (\S+)", said, re.M)
    assert ran == ["tune", "tune", "diagnose", "report"], said  # there is nothing to tune, which DVC has to be told
    for folder, method in zip(folders, methods, strict=False):
        where = Path(f"results/tiny/runs/birds/{method}/0")
        for name in ("model.safetensors", "predictions.parquet", "provenance.json"):
            assert (folders[2] / where / name).read_bytes() == (folder / where / name).read_bytes(), name
    table = pd.read_csv(folders[2] / "results/tiny/report/accuracy.csv")
    assert table["method"].to_list() == list(methods)


@pytest.mark.slow
def test_a_folder_brings_the_runs_of_machines_together(tmp_path):
    brought_together(tmp_path, str(tmp_path / "remote"))


@pytest.mark.slow
def test_s3_brings_the_runs_of_machines_together(tmp_path, bucket):
    brought_together(tmp_path, *bucket)


def test_the_page_has_these_commands():
    text = (ROOT / "docs/usage.md").read_text()
    for command in ("dvc push --run-cache", "dvc fetch --run-cache", "dvc repro --pull"):
        assert command in text
