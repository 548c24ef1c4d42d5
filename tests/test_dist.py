"""Two processes over gloo do what one does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hmmoe
from small import collate, pair, rows

HERE = Path(__file__).parent


def launch(mode: str, folder: Path, processes: int) -> tuple[list[float], dict, str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "dist_worker.py"), mode, str(folder), str(4 // processes)]
    workers = []
    for rank in range(processes):
        env = dict(os.environ)
        if processes > 1:
            env |= {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        workers.append(
            subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    try:
        for worker in workers:
            said, _ = worker.communicate(timeout=240)
            assert worker.returncode == 0, said[-3000:]
    finally:
        for worker in workers:
            worker.kill()
    losses = json.loads((folder / "losses.json").read_text())
    return losses, load_file(folder / "adapter" / "adapter_model.safetensors"), (folder / "kind.txt").read_text()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[list[float], dict]:
    return launch("one", tmp_path_factory.mktemp("one"), 1)[:2]


@pytest.mark.dist
@pytest.mark.parametrize(("mode", "kind"), [("ddp", "DistributedDataParallel"), ("fsdp", "FSDP")])
def test_two_processes_equal_one_and_save_the_adapter_whole(mode, kind, alone, tmp_path):
    losses, adapter, wrapped = launch(mode, tmp_path, 2)
    assert kind in wrapped
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(alone[0]), rtol=0, atol=1e-5)
    assert adapter.keys() == alone[1].keys()
    for name, weight in alone[1].items():
        torch.testing.assert_close(adapter[name], weight, rtol=0, atol=1e-4)
    model = hmmoe.from_pretrained(pair(), tmp_path / "adapter")
    assert model(**collate(rows(2))).loss.isfinite()
