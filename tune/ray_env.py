"""Settings that Ray reads when it is imported: whoever imports Ray imports this module first.

They hold for this process and, as they are its environment, for the workers that it starts. Workers of a cluster that
runs already are started by others: these are sent `FOR_WORKERS`, and nothing else of this process's environment, in
which the user's secrets are.
"""

from __future__ import annotations

import os

FOR_WORKERS = ("RAY_CHDIR_TO_TRIAL_DIR", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "TUNE_FUNCTION_THREAD_TIMEOUT_S")

os.environ.setdefault("RAY_AUTH_MODE", "token")  # else a cluster at a given address is joined without one
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative data files stay where the user wrote them
# what writes the last of a trial to wandb goes on for a moment when Tune kills the trial's process, and ends by itself
os.environ.setdefault("RAY_kill_child_processes_on_worker_exit", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")  # else a dead worker is announced on stdout, whatever is set
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints a header whatever its verbosity
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000")  # a study resumes from its journal, not from Tune
os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "30")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how late the end of a run is noticed
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # a busy machine is slow to start processes
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
