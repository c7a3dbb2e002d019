"""What a retry of a fine-tuning's job finds, through its rule."""

import json
import os

import pytest
from repository import HELPERS
from workflow_runs import change, names, run

pytestmark = pytest.mark.workflow

# Python runs this first in every process: the second of two ends itself at step 3, once.
END = """
import os, sys
if os.environ.get("RANK") == "1":
    try:
        os.mkdir({mark!r})
    except FileExistsError:
        pass
    else:
        sys.path.insert(0, {tests!r})
        from killing import end_at, kill
        end_at(1, 3, kill)
"""


def test_the_retry_of_a_training_one_of_whose_processes_was_killed_resumes(finished, monkeypatch):
    def over_two_processes(settings):
        settings["hardware"] = "h100-80"
        changes = {"num_steps": 4, "checkpoint_steps": 2, "parallel": {"sequence_parallel": 2}}
        settings["extension"][0]["finetune"].update(changes)

    name = change(finished, "two.yaml", over_two_processes)
    key = names(finished, name)["finetune/random-llama-256"]
    mark = finished / "killed"
    text = END.format(mark=str(mark), tests=str(HELPERS))
    (finished / "sitecustomize.py").write_text(text)
    paths = filter(None, [str(finished), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    done = run(finished, name, f"results/{key}/DONE", "--retries", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert mark.is_dir()
    assert "Trying to restart job" in done.stderr
    # the retry's log: steps 3 and 4 of 4
    said = (finished / "logs" / f"{key}.log").read_text()
    assert said.count("'loss'") == 2
    log = (finished / "results" / key / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4]
