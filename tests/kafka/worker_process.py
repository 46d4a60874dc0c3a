"""Runs one worker: `python worker_process.py SETTINGS_JSON`.

The key `rule` holds the join rule's fields; no file outgrows `largest_file_bytes`, as on a disk that is full.
"""

import json
import logging
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import structlog

from bandits.join_rule import JoinRule
from streams.kafka.run_worker import run_worker
from streams.kafka.worker_settings import WorkerSettings

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    # The default would show the locals of a failure: a backlog of records takes minutes to print.
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])
    given = json.loads(sys.argv[1])
    given["rule"] = JoinRule(**given.pop("rule", {}))
    largest = given.pop("largest_file_bytes", None)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    run_worker(
        WorkerSettings(
            **given
            | {
                name: Path(given[name])
                for name in ("graph", "graph_dir", "data_dir", "item_tower")
                if name in given
            }
        )
    )
