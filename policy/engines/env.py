"""Environment variables that must be set before torch or vLLM is imported. Standard library only.

On a machine with few cores, engine, learner and Ray compete for them: pinned OpenMP threads that wait actively made the
same job 3 to 30 times slower. A value that the user has set already is kept.
"""

from __future__ import annotations

import os

ENGINE_ENV = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in the caller's process: a weight sync is a plain call
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def set_engine_env() -> None:
    """Set the thread and engine variables of this process and of the processes it starts."""
    for name, value in ENGINE_ENV.items():
        os.environ.setdefault(name, value)
