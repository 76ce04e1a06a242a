"""The example job files are read, their parts fit together, and their commands resolve to what they ask for."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import yaml
from torch.distributed.run import get_args_parser

from scorl.cli import commands
from scorl.recipe import Recipe, resolve

EXAMPLES = Path(__file__).parents[1] / "examples"
STUB = "#!/bin/sh\nif [ $(basename $0) = scontrol ]; then echo node-1; echo node-2; else printf '%s\\n' \"$@\"; fi\n"


def resolved(command: list[str]) -> tuple[Recipe, dict[str, object]]:
    """The recipe and the options of `train ...`."""
    assert command[0] == "train"
    parameters = commands.commands["train"].make_context("train", command[1:], resilient_parsing=False).params
    return resolve(parameters["recipe"], parameters["overrides"]), parameters


def test_slurm_starts_as_many_ranks_as_the_recipe_wants(tmp_path):
    """Slurm's commands are stubs that say what they were given; the rest of the script runs."""
    text = (EXAMPLES / "slurm.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SLURM_JOB_NUM_NODES": asked["nodes"],
        "SLURM_GPUS_ON_NODE": asked["gpus-per-node"],
        "SLURM_JOB_ID": "7",
    }
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = ["bash", str(EXAMPLES / "slurm.sbatch")]
    said = subprocess.run(script, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    started = get_args_parser().parse_args(said[said.index("torchrun") + 1 :])
    assert (started.module, started.training_script, started.rdzv_endpoint) == (True, "scorl", "node-1:29500")
    recipe, options = resolved(started.training_script_args)
    assert recipe.launcher.workers == int(started.nnodes) * int(started.nproc_per_node) == 16
    assert (recipe.launcher.parallel, recipe.launcher.gpu, recipe.engine.name) == ("fsdp2", "h100", "vllm")
    assert options["resume"] == "auto"
    assert asked["ntasks-per-node"] == "1"


def test_kuberay_has_a_gpu_for_every_worker_and_one_volume_for_all():
    job = yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    recipe, options = resolved(shlex.split(job["spec"]["entrypoint"])[1:])
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert recipe.launcher.workers == group["replicas"] * int(worker["resources"]["limits"]["nvidia.com/gpu"])
    assert (recipe.launcher.name, recipe.launcher.restarts, options["resume"]) == ("ray", 10, "auto")
    assert recipe.launcher.parallel == "fsdp2"
    for template in (group["template"], cluster["headGroupSpec"]["template"]):
        (container,) = template["spec"]["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in template["spec"]["volumes"]}
        assert Path(str(options["out"])).is_relative_to(mounts["shared"])
