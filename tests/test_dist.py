"""Two processes over gloo do what one does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

import hmmoe
from dist_worker import train
from small import adapted, collate, pair, rows

HERE = Path(__file__).parent


def launch(mode: str, folder: Path) -> tuple[list[float], str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, str(HERE / "dist_worker.py"), mode, str(folder), "2"],
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for worker in workers:
            said, _ = worker.communicate(timeout=240)
            assert worker.returncode == 0, said[-3000:]
    finally:
        for worker in workers:
            worker.kill()
    return json.loads((folder / "losses.json").read_text()), (folder / "kind.txt").read_text()


@pytest.mark.dist
@pytest.mark.parametrize(("mode", "kind"), [("ddp", "DistributedDataParallel"), ("fsdp2", "FSDP")])
def test_two_processes_equal_one_and_save_the_adapter_whole(mode, kind, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    expected, _ = train("alone", tmp_path / "one", 4)
    losses, wrapped = launch(mode, tmp_path / "two")
    alone, adapter = (
        load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("one", "two")
    )
    assert kind in wrapped
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=0, atol=1e-5)
    at_start = get_peft_model_state_dict(adapted())
    assert adapter.keys() == alone.keys() == at_start.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(adapter[name], weight, rtol=0, atol=1e-5)
        assert not torch.equal(weight, at_start[name])
    model = hmmoe.from_pretrained(pair(), tmp_path / "two" / "adapter")
    assert model(**collate(rows(2))).loss.isfinite()
