"""Runs one worker: `python worker_process.py SETTINGS_JSON`."""

import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from bandits.join_rule import JoinRule
from streams.kafka.run_worker import run_worker
from streams.kafka.worker_settings import WorkerSettings

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    given = json.loads(sys.argv[1])
    if "kind_weights" in given:
        given["rule"] = JoinRule(kind_weights=given.pop("kind_weights"))
    run_worker(WorkerSettings(**given | {name: Path(given[name]) for name in ("graph", "data_dir")}))
